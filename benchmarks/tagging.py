"""Time and memory of tagging: an hour in one file, and a folder of short files beside a bare loop.

    python benchmarks/tagging.py --out /tmp/tagging

The network is of full width with 527 classes and random weights; the audio is noise, tones and
bursts. Each run is a process of its own, start and compilation (from the cache of earlier runs)
included; what is compared runs in turn, and medians are told. Wall time depends on what else the
machine does, CPU seconds (user and system, of all threads) less so.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from psl_jax.exporting.check import make_synthetic_signal
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.networks.mobilenetv2 import create
from psl_jax.networks.trained_model import ModelInfo
from psl_jax.runtime import cli_entry
from psl_jax.weights.safetensors_file import write_safetensors

RATE = 16_000
LOOP = """
import pathlib, sys
import psl_jax
from psl_jax.runtime import distributed
distributed.configure(0.5)
model = psl_jax.load(sys.argv[1])
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    model.tag(path).events()
"""


class Run(NamedTuple):
    """What a process took."""

    wall: float
    cpu: float
    megabytes: float  # at most, resident


def measure(command: Sequence[str]) -> Run:
    """Runs a command. Raises RuntimeError where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {' '.join(command)}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def write_model(path: pathlib.Path) -> None:
    classes = audioset_classes()
    _, variables = create(len(classes), 1.0)
    # A dozen classes are heard all the time, the others never.
    bias = np.random.default_rng(0).normal(-4, 2, len(classes)).astype(np.float32)
    variables.params["classifier"]["bias"] = bias
    write_safetensors(path, variables, ModelInfo(classes, 1.0, 2.0, name="random").as_json())


def write_audio(folder: pathlib.Path, seconds: float, files: int) -> None:
    """`hour.wav` of so many seconds, and `short/` with files of 1 to 5 s."""
    rng = np.random.default_rng(0)
    sound = np.rint(make_synthetic_signal(60.0) * 32767).astype(np.int16)
    with soundfile.SoundFile(folder / "hour.wav", "w", RATE, 1) as file:
        for start in np.arange(0, seconds, 60.0):
            file.write(np.roll(sound, rng.integers(len(sound)))[: round((seconds - start) * RATE)])
    (folder / "short").mkdir()
    for number in range(files):
        start, length = rng.integers(len(sound) // 2), round(rng.uniform(1, 5) * RATE)
        soundfile.write(folder / "short" / f"{number:04}.wav", sound[start:][:length], RATE)


def medians(runs: Sequence[Run]) -> Run:
    return Run(*(statistics.median(values) for values in zip(*runs, strict=True)))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for model, audio and tags; replaced")
    parser.add_argument("--seconds", type=float, default=3600, help="of the long file")
    parser.add_argument("--files", type=int, default=1000, help="short ones")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    out = pathlib.Path(arguments.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    model = out / "model.safetensors"
    write_model(model)
    write_audio(out, arguments.seconds, arguments.files)
    tag = [sys.executable, "-m", "psl_jax", "tag", str(model)]
    commands = {
        "start (0.5 s of audio)": [*tag, str(out / "start.wav"), "--format=csv"],
        "one long file": [*tag, str(out / "hour.wav"), "--format=csv"],
        "folder, command": [*tag, str(out / "short"), f"--out={out / 'tags'}"],
        "folder, bare loop": [sys.executable, "-c", LOOP, str(model), str(out / "short")],
    }
    soundfile.write(out / "start.wav", np.zeros(RATE // 2), RATE)
    for command in commands.values():  # compiles
        measure(command)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            runs[name].append(measure(command))
    found = {name: medians(values) for name, values in runs.items()}
    for name, run in found.items():
        print(f"{name:24} {run.wall:7.1f} s  {run.cpu:7.1f} CPU s  {run.megabytes:6.0f} MB")
    long = found["one long file"]
    loop, folder = found["folder, bare loop"], found["folder, command"]
    print(f"long file: {arguments.seconds / long.wall:.0f} times real time, start included")
    print(
        f"folder: {loop.wall / folder.wall:.1f} times as fast as the loop "
        f"({loop.cpu / folder.cpu:.1f} in CPU seconds)"
    )


if __name__ == "__main__":
    cli_entry.run(main, parse)
