"""A run on hundreds of hosts, computed for each of them without the hosts.

    python benchmarks/rehearsal.py                                    # 256 hosts, full AudioSet
    python benchmarks/rehearsal.py --hosts 16 --clips 20000           # a trial

An index like that of the whole AudioSet (1.9 million clips of 10 s, 527 classes, shards of 256)
and of its evaluation split are written to a folder; then every stage runs in a process of its own
with what the package itself computes for each host: opening and checking the data, planning an
epoch, the audio and labels that are read, shards of labels dealt out, clips scored and gathered,
and batches made of audio that is zeros. No audio is there: what is read is counted, from the
records' sizes and the plan. Told, and written as JSON: the peak memory of a process, seconds, bytes
a host, and the largest share of a host over the mean. --fast plans draws for eight hosts only.
"""

import argparse
import contextlib
import itertools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

CLASSES, SHARD, CLIP_SAMPLES = 527, 256, 160_000
EVAL_CLIPS = 20_371
FRAMING, OTHERS = 16, 60  # bytes of a record besides its audio


def main() -> None:
    flags = _flags()
    if flags.stage:
        print(json.dumps(STAGES[flags.stage](flags) | {"peak_GB": peak()}))
        return
    results: dict[str, Any] = {"hosts": flags.hosts, "clips": flags.clips}
    with tempfile.TemporaryDirectory() as folder:
        flags.folder = flags.folder or pathlib.Path(folder)
        write_indices(flags.folder, flags.clips)
        for stage in flags.stages.split(",") if flags.stages else STAGES:
            results[stage] = in_its_process(stage, flags)
            print(stage, json.dumps(results[stage]), flush=True)
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        (flags.out / "rehearsal.json").write_text(json.dumps(results, indent=2) + "\n")


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)


def in_its_process(stage: str, flags: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--stage={stage}", f"--folder={flags.folder}"]
    command += [f"--hosts={flags.hosts}", f"--clips={flags.clips}"]
    command += ["--fast"] if flags.fast else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def write_indices(folder: pathlib.Path, clips: int) -> None:
    """Saves `balanced` (a 85th), `full_others` and `eval`, with ids, digests and record sizes."""
    import sampling as simulation

    from psl_jax.data.clip_index import ClipIndex

    rng = np.random.default_rng(0)
    balanced = max(clips // 85, 1)
    sizes = {"balanced": balanced, "full_others": clips - balanced, "eval": EVAL_CLIPS}
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"))
    for split, count in sizes.items():
        made = simulation.simulated(count)
        drawn = letters[rng.integers(len(letters), size=(count, 11))]
        ids = np.ascontiguousarray(drawn).view("<U11").ravel()
        lengths = np.where(rng.random(count) < 0.02, CLIP_SAMPLES * 3 // 4, CLIP_SAMPLES)
        ClipIndex(
            split=split,
            classes=made.classes,
            ids=ids,
            num_samples=lengths.astype(np.int32),
            label_offsets=made.label_offsets,
            label_values=made.label_values,
            shard_sizes=made.shard_sizes,
            audio_digests=rng.integers(2**63, size=count, dtype=np.uint64),
            record_bytes=2 * lengths.astype(np.int64) + FRAMING + OTHERS,
        ).save(folder / f"index-{split}.npz")


# --- what a host does -----------------------------------------------------------------------------


@contextlib.contextmanager
def timed(into: dict[str, Any], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    into[name] = round(time.perf_counter() - start, 2)


def opened(folder: pathlib.Path) -> Any:
    """The index of `full`: two stored splits together."""
    from psl_jax.data.clip_index import ClipIndex, joined

    names = ("balanced", "full_others")
    return joined([ClipIndex.load(folder / f"index-{name}.npz") for name in names], "full")


def start_up(flags: argparse.Namespace) -> dict[str, Any]:
    """Seconds until a host knows its data: index, hashes of the run's check, the notes' counts."""
    import jax  # noqa: F401  part of what a process holds

    result: dict[str, Any] = {}
    with timed(result, "open_s"):
        index = opened(flags.folder)
    with timed(result, "hash_s"):
        _ = index.ids_sha256, index.labels_sha256, index.audio_sha256
    with timed(result, "count_s"):
        index.class_counts()
    size = sum(path.stat().st_size for path in flags.folder.glob("index-[bf]*"))
    return result | {"clips": len(index), "index_MB": round(size / 1e6)}


def uniform(flags: argparse.Namespace) -> dict[str, Any]:
    return plans(flags, "uniform", 2.0, hosts=range(flags.hosts))


def balanced(flags: argparse.Namespace) -> dict[str, Any]:
    return plans(flags, "balanced", 10.0, hosts=_some(flags))


def weighted(flags: argparse.Namespace) -> dict[str, Any]:
    return plans(flags, "weighted", 2.0, hosts=_some(flags))


def _some(flags: argparse.Namespace) -> Iterable[int]:
    step = max(flags.hosts // 8, 1) if flags.fast else 1
    return range(0, flags.hosts, step)


def plans(
    flags: argparse.Namespace, sampling: str, seconds: float, hosts: Iterable[int]
) -> dict[str, Any]:
    """An epoch's order of each host, and the audio that it makes the host read."""
    from psl_jax.audio.segments import Segmentation
    from psl_jax.data.segment_loader import Segments
    from psl_jax.data.training_order import TrainingOrder

    index, segmentation = opened(flags.folder), Segmentation(seconds)
    segments = Segments(_zeros(index), segmentation)
    took, audio, entries = [], [], []
    for host in hosts:
        order = TrainingOrder(32, 0, sampling, False, host, flags.hosts)
        size = order.epoch_size(segments)
        start = time.perf_counter()
        batches = list(itertools.islice(order.batches(segments), -(-size // 32)))
        took.append(time.perf_counter() - start)
        clips, numbers = segments.places(np.concatenate(batches)[:size])
        valid = segmentation.count_valid_samples(index.num_samples[clips], numbers)
        audio.append(2 * int(valid.sum(dtype=np.int64)))
        entries.append(size)
    share = 2 * segmentation.segment_samples * len(segments) / flags.hosts
    return {
        "hosts_planned": len(took),
        "plan_s": {"median": round(float(np.median(took)), 2), "max": round(max(took), 2)},
        "entries": [min(entries), max(entries)],
        "audio_GB": round(max(audio) / 1e9, 3),
        "audio_over_share": round(max(audio) / share, 3),
    }


def _zeros(index: Any) -> Any:
    """A source of silence."""
    from psl_jax.data.source import Source

    class Zeros(Source):
        def __init__(self) -> None:
            self.index = index

        def read(self, clips: Any, starts: Any, counts: Any, rows: np.ndarray) -> None:
            rows[:] = 0

    return Zeros()


def relabel(flags: argparse.Namespace) -> dict[str, Any]:
    """Shards of labels dealt to the hosts as relabeling does, all of them and a third of them."""
    index = opened(flags.folder)
    result: dict[str, Any] = {}
    for name, missing in {
        "all": np.arange(len(index.shard_sizes)),
        "third": np.flatnonzero(np.random.default_rng(0).random(len(index.shard_sizes)) < 1 / 3),
    }.items():
        dealt = _dealt(missing, flags.hosts)
        clips = np.array([int(index.shard_sizes[own].sum()) for own in dealt])
        assert clips.sum() == index.shard_sizes[missing].sum()
        result[name] = {
            "clips": [int(clips.min()), int(clips.max())],
            "over_share": round(float(clips.max() / clips.mean()), 3),
        }
    return result


def _dealt(missing: np.ndarray, hosts: int) -> list[np.ndarray]:
    return [missing[host::hosts] for host in range(hosts)]


def evaluate(flags: argparse.Namespace) -> dict[str, Any]:
    """The evaluation split dealt out, and its scores gathered as one process holds them."""
    from psl_jax.audio.segments import Segmentation
    from psl_jax.data.batches import process_clips
    from psl_jax.data.clip_index import ClipIndex
    from psl_jax.scoring import metrics

    index, result = ClipIndex.load(flags.folder / "index-eval.npz"), {}
    segmentation = Segmentation(10.0)
    shares = process_clips(segmentation.count_segments(index.num_samples), flags.hosts)
    assert np.array_equal(np.concatenate(shares), np.arange(len(index)))
    counts = [len(own) for own in shares]
    rng = np.random.default_rng(0)
    gathered = rng.random((flags.hosts, max(counts), CLASSES), np.float32)
    scores = np.concatenate([part[:n] for part, n in zip(gathered, counts, strict=True)])
    with timed(result, "metrics_s"):
        metrics.mean_average_precision(index.weak_labels(), scores)
    share = len(index) / flags.hosts
    return result | {
        "clips": [min(counts), max(counts)],
        "over_share": round(max(counts) / share, 3),
    }


def read(flags: argparse.Namespace) -> dict[str, Any]:
    """Thousands of batches of a host, audio and labels being zeros: what memory they take."""
    import jax  # noqa: F401  part of what a process holds

    from psl_jax.audio.segments import Segmentation
    from psl_jax.data import batches
    from psl_jax.data.segment_loader import Segments
    from psl_jax.data.training_order import TrainingOrder

    class ZeroLabels:
        def of_segments(self, clips: np.ndarray, segments: np.ndarray) -> np.ndarray:
            return np.zeros((len(clips), CLASSES), np.float16)

    index = opened(flags.folder)
    labels: Any = ZeroLabels()
    segments = Segments(_zeros(index), Segmentation(2.0), labels)
    order = TrainingOrder(32, 0, "uniform", False, flags.hosts // 2, flags.hosts)
    feed = batches.train_batches(segments, order)
    start = time.perf_counter()
    next(feed)
    first = time.perf_counter() - start
    for _ in itertools.islice(feed, 3 * 2048 * 5 // 32):
        pass
    return {"first_batch_s": round(first, 2)}


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "start_up": start_up,
    "uniform": uniform,
    "balanced": balanced,
    "weighted": weighted,
    "relabel": relabel,
    "evaluate": evaluate,
    "read": read,
}


def _flags() -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=256)
    parser.add_argument("--clips", type=int, default=1_900_000)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--stages", default="", help=f"some of {','.join(STAGES)}")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, help="folder for rehearsal.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
