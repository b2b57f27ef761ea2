"""Segments a second of the input pipeline, and what CPU time one takes: 10 s clips to 2 s batches.

    python benchmarks/input_pipeline.py                    # an epoch of 100,000 records
    python benchmarks/input_pipeline.py --records 4096 --shards 16 --sampling balanced
    python benchmarks/input_pipeline.py --streamed         # whole shards by tf.data
    python benchmarks/input_pipeline.py --cold             # nothing of the files in memory
    python benchmarks/input_pipeline.py --bucket --records 1024 --shards 4   # of fake-gcs-server

A few shards of 256 records are written and read again and again under other names, so that the
epoch has `--records` of them without filling the disk; after the first pass they come from the
page cache. Batches have soft labels of 527 classes; each is made and thrown away. Prints rates,
CPU time and resident memory at each tenth of the epoch, and writes input_pipeline.json into --out.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.corpora import corpus
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels, SoftLabelWriter
from psl_jax.data.source import Source
from psl_jax.data.split_index_files import build_index
from psl_jax.data.training_order import SAMPLINGS, TrainingOrder
from psl_jax.preparing import split_writer

CLIP_SECONDS, SEGMENT_SECONDS = 10, 2
CLASSES = tuple(f"class {i}" for i in range(527))
CLIPS_PER_SHARD = split_writer.CLIPS_PER_SHARD


def main() -> None:
    flags = _flags()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        root = pathlib.Path(folder)
        source = write_source(root, flags.records, flags.shards, flags.streamed)
        labels = write_labels(root / "labels", source.index)
        if flags.cold:
            forget_files(root)
        measure_source = measure_in_bucket if flags.bucket else measure
        result = measure_source(source, labels, flags)
    low, high = min(result["resident_MB"]), max(result["resident_MB"])
    print(
        f"{result['segments_per_second']:.0f} segments/s, {result['cpu_ms_per_segment']:.4f} ms of "
        f"CPU a segment, memory {low:.0f} to {high:.0f} MB"
    )
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "input_pipeline.json").write_text(json.dumps(result, indent=2) + "\n")


def write_source(root: pathlib.Path, records: int, distinct: int, streamed: bool = False) -> Source:
    """`records` clips of noise, in files of which `distinct` exist."""
    rng = np.random.default_rng(0)
    paths, described = [], []
    for number in range(distinct):
        path = root / f"clips-{number:05d}"
        loaded = (
            corpus.Loaded(
                corpus.Clip(
                    f"{number}-{k}",
                    rng.integers(-9000, 9000, CLIP_SECONDS * SAMPLE_RATE).astype(np.int16),
                    tuple(sorted(rng.choice(len(CLASSES), 2, replace=False).tolist())),
                )
            )
            for k in range(CLIPS_PER_SHARD)
        )
        described.append(split_writer.write_shard(path, loaded, False).clips)
        paths.append(path)
    count = -(-records // CLIPS_PER_SHARD)
    rows = [row for number in range(count) for row in described[number % distinct]]
    index = build_index("train", CLASSES, rows, [CLIPS_PER_SHARD] * count)
    names = [paths[number % distinct] for number in range(count)]
    return Source(names, index, streamed)


def write_labels(folder: pathlib.Path, index: ClipIndex) -> SoftLabels:
    """Soft labels of every segment."""
    segmentation = Segmentation(SEGMENT_SECONDS)
    writer = SoftLabelWriter(folder, index, segmentation, teacher_digest="benchmark")
    segments = CLIP_SECONDS // SEGMENT_SECONDS
    shape = (CLIPS_PER_SHARD, segments, len(CLASSES))
    probabilities = np.random.default_rng(1).random(shape, np.float32)
    for shard in range(len(index.shard_sizes)):
        writer.write_shard(shard, np.concatenate(probabilities))
    return SoftLabels.open(folder, index, segmentation)


def forget_files(root: pathlib.Path) -> None:
    """Has the system drop what it keeps of the files in memory."""
    for path in root.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def measure(source: Source, labels: SoftLabels, flags: argparse.Namespace) -> dict:
    """One epoch: rates and CPU time over it, memory at each tenth."""
    segments = Segments(source, Segmentation(SEGMENT_SECONDS), labels, flags.alpha)
    order = TrainingOrder(flags.batch_size, 0, flags.sampling, flags.streamed)
    per_epoch = len(segments) // flags.batch_size
    feed = batches.train_batches(segments, order)
    if source.is_streamed:
        import tensorflow  # noqa: F401 (takes seconds, which the first batch would have)
    resident = []
    start, cpu = time.perf_counter(), time.process_time()
    for step in range(1, per_epoch + 1):
        next(feed)
        if step % max(per_epoch // 10, 1) == 0:
            resident.append(_resident_megabytes())
            rate = step * flags.batch_size / (time.perf_counter() - start)
            print(f"step {step} of {per_epoch}: {rate:.0f} segments/s, {resident[-1]:.0f} MB")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    count = per_epoch * flags.batch_size
    return {
        "records": len(source.index),
        "sampling": flags.sampling,
        "streamed": flags.streamed,
        "segments_per_second": count / seconds,
        "cpu_ms_per_segment": 1000 * cpu / count,
        "resident_MB": resident,
    }


def measure_in_bucket(source: Source, labels: SoftLabels, flags: argparse.Namespace) -> dict:
    """Measures with the shards in a bucket that this process serves, in a process of its own."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "helpers"))
    import bucket_server  # needs the tests' packages

    shards_folder = pathlib.Path(source.paths[0]).parent
    with bucket_server.serving(shards_folder) as bucket:
        for path in shards_folder.glob("clips-*"):
            bucket.put(path.name, path.read_bytes())
        os.environ.update(bucket.environment)
        urls = [f"{bucket.url}/{pathlib.Path(path).name}" for path in source.paths]
        source = Source(urls, source.index)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, source, labels, flags).result()


def _resident_megabytes() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=16, help="that exist, of 82 MB each")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--sampling", default="uniform", choices=SAMPLINGS)
    parser.add_argument("--streamed", action="store_true", help="whole shards, by tf.data")
    parser.add_argument("--cold", action="store_true", help="drop the files from memory first")
    parser.add_argument(
        "--bucket", action="store_true", help="shards in a bucket of a server on this machine"
    )
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--folder", help="where to put shards and labels, 2 GB by default")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
