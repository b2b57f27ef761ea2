"""Clips a second of preparing a corpus, beside a bare loop of its libraries and the PSL code's way.

    python benchmarks/prepare.py                                          # takes some minutes
    python benchmarks/prepare.py --clips 20 --more_clips 40 --rounds 1    # a trial

For wav and flac at 16 and 44.1 kHz, in alternating rounds:
  psl_jax   the data set of psl_jax.prepare, by all cores
  bare      soundfile, the mean over channels and soxr HQ in as many processes; nothing is written
  hdf5      soundfile and soxr into int16 data sets of one HDF5 file by h5py, as the PSL code does
and then the peak memory of preparing `--clips` and `--more_clips` files. Rates are medians over
rounds. Writes prepare.json into --out.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import soundfile
import soxr

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 10
FORMATS = {"wav16": (16_000, "wav"), "flac16": (16_000, "flac")}
FORMATS |= {"wav44": (44_100, "wav"), "flac44": (44_100, "flac")}


def main() -> None:
    flags = _flags()
    workers = flags.workers or os.cpu_count() or 1
    results: dict = {"clips": flags.clips, "seconds": SECONDS, "processes": workers, "rates": {}}
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        root = pathlib.Path(folder)
        for name in flags.formats.split(","):
            source = write_source(root / name, flags.clips, *FORMATS[name])
            results["rates"][name] = rates(source, root, workers, flags.rounds)
            print(one_line(name, results["rates"][name]), flush=True)
            shutil.rmtree(source)
        if flags.more_clips:
            results["peak_MB"] = memory(root, flags.clips, flags.more_clips, workers)
            few, many = results["peak_MB"].values()
            print(
                f"peak memory: {few:.0f} MB for {flags.clips} clips, {many:.0f} MB for "
                f"{flags.more_clips}: {100 * (many / few - 1):+.1f} %"
            )
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "prepare.json").write_text(json.dumps(results, indent=2) + "\n")


def write_source(folder: pathlib.Path, clips: int, rate: int, suffix: str) -> pathlib.Path:
    """A folder of own_data: stereo noise at 44.1 kHz, mono at 16 kHz; few contents, many files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    channels = 1 if rate == 16_000 else 2
    contents = []
    for number in range(min(clips, 16)):
        path = folder / f"content{number}.{suffix}"
        noise = np.cumsum(rng.standard_normal((SECONDS * rate, channels)), axis=0)
        soundfile.write(path, 0.5 * noise / np.abs(noise).max(), rate, subtype="PCM_16")
        contents.append(path.read_bytes())
        path.unlink()
    for number in range(clips):
        (folder / f"{number:06d}.{suffix}").write_bytes(contents[number % len(contents)])
    rows = "".join(f"{number:06d}.{suffix},dog\n" for number in range(clips))
    (folder / "train.csv").write_text("filename,labels\n" + rows)
    return folder


def rates(source: pathlib.Path, root: pathlib.Path, workers: int, rounds: int) -> dict:
    """Median clips a second of each way, in alternating rounds, and ratios to the bare loop."""
    paths = sorted(p for p in source.iterdir() if p.suffix != ".csv")
    seconds: dict[str, list[float]] = {"psl_jax": [], "bare": [], "hdf5": []}
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(bare, paths[: 2 * workers]))  # the processes are there, libraries loaded
        for _ in range(rounds):
            seconds["psl_jax"].append(prepare(source, root / "records", workers)[0])
            shutil.rmtree(root / "records")
            start = time.perf_counter()
            chunks = max(len(paths) // (4 * workers), 1)
            assert sum(pool.map(bare, paths, chunksize=chunks)) == SECONDS * 16_000 * len(paths)
            seconds["bare"].append(time.perf_counter() - start)
            seconds["hdf5"].append(hdf5(paths, root / "all.h5"))
    result = {way: len(paths) / statistics.median(times) for way, times in seconds.items()}
    return result | {"ratio_to_bare": result["psl_jax"] / result["bare"]}


def prepare(source: pathlib.Path, data_dir: pathlib.Path, workers: int) -> tuple[float, float]:
    """Seconds for the preparation itself, and the peak memory in MB, of a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--one", source, data_dir, str(workers)]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = map(float, done.stdout.splitlines()[-1].split())
    return seconds, peak


def prepare_here(source: str, data_dir: str, workers: str) -> None:
    """What the process of its own does; imports are not part of the time."""
    from psl_jax.corpora.own_data import OwnData
    from psl_jax.data.settings import DataSettings
    from psl_jax.preparing.builder import ClipBuilder
    from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

    tensorflow_quietly()
    start = time.perf_counter()
    corpus = OwnData(DataSettings(source_dir=source))
    ClipBuilder(corpus, data_dir=data_dir, num_workers=int(workers)).prepare()
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def load(path: pathlib.Path) -> np.ndarray:
    """A file at 16 kHz mono: int16 [samples]."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate != 16_000:
        mono = soxr.resample(mono, rate, 16_000, quality="HQ")
    return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


def bare(path: pathlib.Path) -> int:
    return len(load(path))


def hdf5(paths: list[pathlib.Path], out: pathlib.Path) -> float:
    start = time.perf_counter()
    with h5py.File(out, "w") as file:
        for path in paths:
            file[path.name] = load(path)
    seconds = time.perf_counter() - start
    out.unlink()
    return seconds


def memory(root: pathlib.Path, few: int, many: int, workers: int) -> dict[str, float]:
    """Peak memory in MB by number of clips."""
    peaks = {}
    for clips in (few, many):
        source = write_source(root / f"memory{clips}", clips, *FORMATS["wav16"])
        peaks[str(clips)] = prepare(source, root / "records", workers)[1]
        shutil.rmtree(source)
        shutil.rmtree(root / "records")
    return peaks


def one_line(name: str, found: dict) -> str:
    ways = ", ".join(
        f"{way} {found[way]:.0f} clips/s (x{SECONDS * found[way]:,.0f})"
        for way in ("psl_jax", "bare", "hdf5")
    )
    return f"{name}: {ways}; psl_jax / bare {found['ratio_to_bare']:.2f}"


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--more_clips", type=int, default=5_000, help="0: do not measure memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="default: one a core")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--folder", help="where to put files, 2 GB at the default sizes")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/benchmarks"))
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        prepare_here(*sys.argv[2:])
    else:
        main()
