"""What the commands have in common that put a model on a data set: evaluate and relabel."""

import argparse
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.opening import open_folder
from psl_jax.data.sources import Source
from psl_jax.data.whole_clips import WholeClips
from psl_jax.model.mobilenetv2 import num_parameters
from psl_jax.model.model import Model
from psl_jax.runtime import disk, entry, joining, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.evaluation import Cut
from psl_jax.scoring.scorer import Scorer
from psl_jax.weights.load import load_model

# Seconds of audio that a core scores in a second at width 1: two of an AMD EPYC, see
# docs/PERFORMANCE.md.
_CPU_RATE = 600


def parser(program: str, doc: str, split: str) -> argparse.ArgumentParser:
    """A parser that takes MODEL and DATA; `doc` is the docstring of the program's module."""
    result = entry.parser(program, doc)
    add = result.add_argument
    add("model", metavar="MODEL", help="folder of a finished run, an export, or a published .pt")
    add("data", metavar="DATA", help="folder of a prepared or packed data set")
    add("--split", default=split, help=f"(default: {split})")
    add("--batch_size", type=int, default=0, metavar="N", help="segments (default: by the devices)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the maps")
    add("--num_devices", type=int, metavar="N", help="(default: all)")
    add("--dry_run", action="store_true", help="tell what would be done, and do nothing")
    group = result.add_argument_group("several processes")
    group.add_argument("--distributed", action="store_true", help="join the others, as main does")
    group.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I")
    return result


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line that begins with the program's name; joins no processes yet."""
    flags.FLAGS(arguments[:1])  # absl wants its own flags parsed, and has none here
    found = parser.parse_args(arguments[1:])
    for name in ("batch_size", "num_devices"):
        if (getattr(found, name) or 0) < 0:
            parser.error(f"--{name}={getattr(found, name)}: expected 1 or more, or 0")
    return found


class Task(NamedTuple):
    """A model, for the classes of the data, and the split that it is put on."""

    model: Model
    source: Source
    segmentation: Segmentation

    def cut(self, segments: str) -> Cut:
        """The segments, or for "whole" the clips, each as long as it is."""
        return WholeClips.of(self.source.index) if segments == "whole" else self.segmentation

    def scorer(self, arguments: argparse.Namespace, count_padding: bool = False) -> Scorer:
        """What scores the split's segments on this process's devices."""
        devices = arguments.num_devices or None
        if devices and jax.process_count() > 1:
            raise UserError("--num_devices: several processes use all devices; leave it out")
        return Scorer(
            self.model.variables,
            self.model.info.logmel,
            arguments.dtype,
            devices,
            count_padding,
            output=self.model.info.output,
        )


def begin(arguments: argparse.Namespace, segments: str) -> Task:
    """Joins the other processes and opens model and data.

    segments: "training" (as the model was trained), "whole", or seconds. Raises UserError.
    """
    joining.configure()
    if arguments.distributed:
        one = arguments.coordinator_address, arguments.num_processes, arguments.process_id
        joining.join_processes(*one)
    model = load_model(arguments.model)
    if jax.process_index():
        parallel.wait_for_all("open")
    source = open_folder(arguments.data, arguments.split)
    if not jax.process_index():  # which has to index a data set that others prepared
        parallel.wait_for_all("open")
    seconds = _seconds(segments, model, source)
    return Task(model.for_classes(source.index.classes), source, Segmentation(seconds))


def _seconds(segments: str, model: Model, source: Source) -> float:
    if segments == "training":
        return model.info.segment_seconds
    if segments == "whole":
        return source.index.clip_samples / SAMPLE_RATE
    try:
        seconds = float(segments)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise UserError(
            f"--segment_seconds={segments}: expected training, whole, or seconds, such as 2"
        )
    return seconds


def check_out(folder: str | os.PathLike) -> None:
    """Raises UserError where nothing can be written; process 0 looks."""
    if jax.process_index() == 0:
        disk.check_writable(folder, "--out")


def plan(
    task: Task, cut: Cut, scorer: Scorer, arguments: argparse.Namespace, out: object
) -> list[str]:
    """What will be done, in words; `cut` is what the clips are cut into."""
    model, index = task.model, task.source.index
    width, parameters = model.info.width, num_parameters(model.variables)
    work, rows, audio = _work(cut, index, scorer, arguments)
    device = f"{scorer.mesh.size} {parallel.platform_of(scorer.mesh)} device"
    lines = [
        f"model   {model.info.name}: {len(model.classes)} classes, width {width:g}, {parameters:,} "
        f"parameters, digest {model.digest}",
        f"data    {index.split}: {len(index):,} clips, {index.hours:.2f} h, ids "
        f"{index.ids_sha256[:12]}…",
        f"work    {work} of int16 [{rows}, {cut.segment_samples}] to {arguments.dtype} "
        f"probabilities [{rows}, {index.num_classes}], on {device}{'s' * (scorer.mesh.size > 1)} "
        f"of each of {jax.process_count()} process{'es' * (jax.process_count() > 1)}",
        f"memory  scores of all clips {4 * len(index) * index.num_classes / 1e6:,.1f} MB, a batch "
        f"{2 * rows * cut.segment_samples / 1e6:,.1f} MB",
        f"out     {out}",
    ]
    if parallel.platform_of(scorer.mesh) == "cpu":
        cores = os.cpu_count() or 1
        audio *= 0.12 + 0.88 * width
        lines.insert(4, f"time    about {20 + audio / (_CPU_RATE * cores):,.0f} s, very roughly")
    return lines


def _work(
    cut: Cut, index: ClipIndex, scorer: Scorer, arguments: argparse.Namespace
) -> tuple[str, int, float]:
    """What is scored, in words; rows of the batches of the longest; seconds of it all, padded."""
    rows = scorer.fitting(arguments.batch_size, cut.seconds)
    if isinstance(cut, WholeClips):
        lengths = np.asarray(cut.lengths) / SAMPLE_RATE
        padded = lengths[cut.number_of(index.num_samples)]
        shown = ", ".join(f"{length:.3g}" for length in lengths)
        work = f"{len(index):,} whole clips, padded to {shown} s: batches, the longest"
        return work, rows, float(padded.sum())
    segments = int(cut.counts(index.num_samples).sum(dtype=np.int64))
    steps = -(-segments // (rows * jax.process_count()))
    work = f"{segments:,} segments of {cut.seconds:g} s: {steps:,} batches"
    return work, rows, segments * cut.seconds
