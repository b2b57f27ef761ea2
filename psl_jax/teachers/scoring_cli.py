"""Flags and steps that commands share which score a data set: evaluate, relabel and fit."""

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.batches import WholeClips
from psl_jax.data.source import Source, open_folder
from psl_jax.networks import class_lists
from psl_jax.runtime import cli_entry, distributed, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.evaluation import AnySegmentation
from psl_jax.scoring.scorer import SegmentScorer
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import open_teacher
from psl_jax.teachers.teacher import Teacher, is_path, map_scores
from psl_jax.teachers.transformers_teacher import is_repository

MODEL_HELP = (
    "folder of a run; .safetensors or .pt file; mn04 (EfficientAT's tagger of AudioSet); "
    "hf://USER/NAME; or KIND:NAME, with KIND run, mn, onnx, tflite, transformers, python or fitted "
    "(docs/TEACHERS.md)"
)
_SPLITS = {  # the default of --split, and what it names, by program
    "fit": ("full", "split whose weak labels the classifier is fitted to"),
    "relabel": ("balanced", "split to label"),
    "evaluate": ("eval", "split to evaluate on"),
}


def make_parser(program: str, doc: str) -> argparse.ArgumentParser:
    """Makes a parser that takes MODEL and DATA; `doc` is the docstring of the program's module."""
    # launch/tpu_vm.sh reads the names of options from the source of these calls.
    parser = cli_entry.parser(program, doc)
    add: Callable[..., Any] = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("data", metavar="DATA", help=cli_entry.DATA_HELP)
    split, about = _SPLITS[program]
    add("--split", default=split, help=f"{about} (default: {split})")
    add(
        "--segment_seconds",
        required=program == "relabel",
        default="training",
        metavar="S",
        help="length of the segments: seconds, whole (whole clips) or training (as the model was "
        f"trained) ({'required' if program == 'relabel' else 'default: training'})",
    )
    add("--dry_run", action="store_true", help="print what would be done, and do nothing")
    add = functools.partial(cli_entry.add_setting, parser, RelabelSettings)
    add("batch_size", metavar="N")
    add("dtype")
    add("trust_remote_code")
    if program != "fit":  # which needs no names in common
        group = parser.add_argument_group("taggers with other classes")
        add = functools.partial(cli_entry.add_setting, group, RelabelSettings)
        add("class_map", metavar="CSV")
        without_labels = {
            "choices": class_lists.UNMAPPED[:2],
            "help": "classes that the model lacks: error: stop; drop: score 0 (default: error)",
        }
        add("unmapped", **({} if program == "relabel" else without_labels))
    cli_entry.add_processes(parser)
    return parser


_BYTES_PER_SAMPLE = 6  # at least: int16, and float32 for the front end


class Task(NamedTuple):
    """A teacher, and the split that it scores, by segments."""

    teacher: Teacher
    source: Source
    segmentation: Segmentation
    settings: RelabelSettings


def open_task(arguments: argparse.Namespace) -> Task:
    """Joins the other processes, and opens the data and a teacher of its classes.

    Raises UserError.
    """
    source, settings = _open_source(arguments), _make_settings(arguments)
    name = arguments.model
    if not source.index.classes:
        classes = open_teacher.list_classes(name, trust_remote_code=settings.trust_remote_code)
        source = source.with_index(source.index.with_classes(classes))
    teacher = open_teacher.open_teacher(name, source.index.classes, settings)
    return Task(teacher, source, _read_segmentation(arguments, teacher, source), settings)


def open_raw_task(arguments: argparse.Namespace) -> tuple[Task, dict[str, str]]:
    """Opens teacher and data as `open_task` does; the teacher has its own classes.

    Returns also the teacher's kind, where it is, and its digest.
    """
    source, settings = _open_source(arguments), _make_settings(arguments)
    name = open_teacher.parse_name(arguments.model)
    teacher = open_teacher.load_teacher(name, trust_remote_code=settings.trust_remote_code)
    is_folder = name.kind == "transformers" and not is_repository(name.where)
    place = os.path.abspath(name.where) if is_folder or is_path(*name) else name.where
    segmentation = _read_segmentation(arguments, teacher, source)
    checked = map_scores(teacher, lambda scores: scores)
    description = {"kind": name.kind, "where": place, "digest": teacher.digest}
    return Task(checked, source, segmentation, settings), description


def _make_settings(arguments: argparse.Namespace) -> RelabelSettings:
    names = {field.name for field in dataclasses.fields(RelabelSettings)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return RelabelSettings(**given)


def _open_source(arguments: argparse.Namespace) -> Source:
    """Joins the other processes and opens the split."""
    distributed.configure()
    own_flags = ("coordinator_address", "process_id", "out")  # may differ between processes
    distributed.join_processes(
        arguments.distributed,
        arguments.coordinator_address,
        arguments.num_processes,
        arguments.process_id,
        {name: value for name, value in vars(arguments).items() if name not in own_flags},
    )
    # Process 0 may have to index the data set.
    source: Source = parallel.run_after_first_process(
        "open", lambda: open_folder(arguments.data, arguments.split)
    )
    return source


def _read_segmentation(
    arguments: argparse.Namespace, teacher: Teacher, source: Source
) -> Segmentation:
    segments = arguments.segment_seconds
    if segments == "training":
        return Segmentation(teacher.segment_seconds)
    if segments == "whole":
        return Segmentation(source.index.clip_samples / SAMPLE_RATE)
    try:
        seconds = float(segments)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise UserError(
            f"--segment_seconds={segments}: expected training, whole, or seconds, such as 2"
        )
    return Segmentation(seconds)


def print_plan(
    task: Task,
    segmentation: AnySegmentation,
    *,
    scorer: SegmentScorer,
    arguments: argparse.Namespace,
    out: object,
    more: Sequence[str] = (),
) -> None:
    """Prints, in the first process, what will be done.

    segmentation: how the clips are cut. more: further lines. Raises UserError for a batch that is
    larger than this machine's memory.
    """
    batch_size = scorer.fitting(arguments.batch_size, segmentation.seconds)
    example_bytes = _BYTES_PER_SAMPLE * segmentation.segment_samples
    if batch_size * example_bytes > (memory := parallel.machine_bytes()):
        raise UserError(
            f"--batch_size={batch_size} takes more than {batch_size * example_bytes / 1e9:,.0f} "
            f"GB, and there are {memory / 1e9:,.0f} GB: less than {memory // example_bytes:,} fits"
        )
    if jax.process_index():
        return
    index, teacher = task.source.index, task.teacher
    num_classes = len(teacher.classes)
    num_processes = jax.process_count()
    if isinstance(segmentation, WholeClips):
        work = f"{len(index):,} whole clips: batches, the longest"
    else:
        num_segments = int(segmentation.number_segments(index.num_samples)[-1])
        num_batches = -(-num_segments // (batch_size * num_processes))
        work = f"{num_segments:,} segments of {segmentation.seconds:g} s: {num_batches:,} batches"
    rates = ""
    if index.sample_rate != teacher.rate:
        rates = f", at {index.sample_rate // 1000} kHz, resampled on the fly to "
        rates += f"{teacher.rate // 1000} kHz"
    lines = [
        f"model   {teacher.summary}",
        f"data    {index.split}: {len(index):,} clips, {index.hours:.2f} h, ids "
        f"{index.ids_sha256[:12]}…{rates}",
        f"work    {work} of int16 [{batch_size}, {segmentation.segment_samples}] to "
        f"{arguments.dtype} probabilities [{batch_size}, {num_classes}], on {scorer.where} "
        f"of each of {num_processes} process{'es' * (num_processes > 1)}",
        f"out     {out}",
    ]
    print(*lines, *more, sep="\n", flush=True)
