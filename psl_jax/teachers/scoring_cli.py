"""Flags and steps that commands share which score a data set: evaluate, relabel and fit."""

import argparse
import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from psl_jax.audio.segments import SAMPLE_RATE, Segmentation
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.source import Source, open_folder
from psl_jax.data.whole_clips import WholeClips
from psl_jax.networks import class_lists
from psl_jax.runtime import cli_entry, distributed, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.scoring.evaluation import AnySegmentation
from psl_jax.scoring.relabeling import TeacherIdentity
from psl_jax.scoring.scorer import SegmentScorer
from psl_jax.teachers import ensemble, open_teacher
from psl_jax.teachers.fitted_teacher import JoinedScorer
from psl_jax.teachers.open_teacher import parse_name
from psl_jax.teachers.psl_teacher import OwnTeacher
from psl_jax.teachers.teacher import ScoringOptions, Teacher
from psl_jax.teachers.transformers_teacher import is_repository

# Seconds of audio that a core scores in a second at width 1, from two cores of an AMD EPYC, see
# docs/PERFORMANCE.md.
_CPU_RATE = 600


def make_parser(
    program: str, doc: str, *, split: str, has_class_maps: bool = True
) -> argparse.ArgumentParser:
    """Makes a parser that takes MODEL and DATA; `doc` is the docstring of the program's module.

    has_class_maps: adds the flags that match the model's classes with the data's and join several
    models.
    """
    parser = cli_entry.parser(program, doc)
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a run, an export, a .pt, or another tagger, mn:FILE.pt, onnx:FILE, ...",
    )
    add("data", metavar="DATA", help="folder of a prepared data set")
    add("--split", default=split, help=f"split that is scored (default: {split})")
    add(
        "--batch_size",
        type=int,
        default=0,
        metavar="N",
        help="segments scored at a time, over all devices (default: 32 on a CPU, 1,024 s of audio "
        "on other devices)",
    )
    add(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="data type that a network in JAX or PyTorch computes in (default: float32)",
    )
    add("--num_devices", type=int, metavar="N", help="devices to compute on (default: all)")
    add(
        "--trust_remote_code",
        action="store_true",
        help="run the Python code that a transformers: model brings (default: refuse such models)",
    )
    add("--dry_run", action="store_true", help="print what would be done, and do nothing")
    group = parser.add_argument_group(
        "several taggers, and taggers with other classes (docs/TEACHERS.md)"
    )
    add, default = group.add_argument, open_teacher.ClassMapping()
    purpose = (
        "whose scores are averaged with the first's"
        if has_class_maps
        else "whose scores are used as well"
    )
    add(
        "--teacher",
        action="append",
        default=[],
        metavar="MODEL",
        help=f"another tagger, {purpose}; may be given several times (default: none)",
    )
    if has_class_maps:
        add(
            "--mean",
            default=default.mean,
            choices=ensemble.MEANS,
            help=f"what the mean over several taggers is taken of (default: {default.mean})",
        )
        add(
            "--class_map",
            default="",
            metavar="CSV",
            help="table with the columns class and teacher_class, or one per tagger, separated by "
            "commas (default: classes of equal names)",
        )
        add(
            "--unmapped",
            default=default.unmapped,
            choices=class_lists.UNMAPPED,
            help="what happens to classes of the data that the model lacks: an error, scores of 0 "
            f"(drop), or their weak labels (default: {default.unmapped})",
        )
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several processes that share the work; on a TPU pod and in Slurm and "
        "MPI jobs they find each other, elsewhere give the next three (default: a single process)",
    )
    group.add_argument(
        "--coordinator_address",
        metavar="HOST:PORT",
        help="address where process 0 listens (default: that of the pod or job)",
    )
    group.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="number of processes (default: that of the pod or job)",
    )
    group.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="number of this process, from 0 (default: that of the pod or job)",
    )
    return parser


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """Parses a command line that begins with the program's name; joins no processes yet."""
    flags.FLAGS(arguments[:1])  # absl wants its own flags parsed, and has none here
    parsed = parser.parse_args(arguments[1:])
    for name in ("batch_size", "num_devices"):
        if (getattr(parsed, name) or 0) < 0:
            parser.error(f"--{name}={getattr(parsed, name)}: expected 1 or more, or 0")
    return parsed


class Task(NamedTuple):
    """A teacher for the classes of the data, and the split that it scores.

    weak: bool [classes], classes that it lacks and that keep their weak labels; None: none.
    """

    teacher: Teacher
    weak: np.ndarray | None
    source: Source
    segmentation: Segmentation

    def choose_segmentation(self, segments: str) -> AnySegmentation:
        """Returns the segments, or for "whole" and a model of ours whole clips of any length."""
        if segments == "whole" and isinstance(self.teacher, OwnTeacher):
            return WholeClips.of(self.source.index)
        return self.segmentation

    def make_scorer(
        self, arguments: argparse.Namespace, rule: LabelRule | None = None
    ) -> SegmentScorer:
        """Makes a scorer of segments on this process's devices, for labels by `rule`.

        Raises UserError for a teacher that cannot follow the rule.
        """
        devices = _check_devices(arguments)
        return open_teacher.make_label_scorer(
            self.teacher, rule or LabelRule(dtype=arguments.dtype), devices
        )

    @property
    def identity(self) -> TeacherIdentity:
        return TeacherIdentity(self.teacher.digest, self.teacher.describe(), self.weak)


def open_task(arguments: argparse.Namespace, segments: str) -> Task:
    """Joins the other processes and opens teacher and data.

    segments: "training" (as the model was trained), "whole", or seconds. Raises UserError.
    """
    source = _open_source(arguments)
    name = open_teacher.join_names([arguments.model, *arguments.teacher])
    mapping = open_teacher.ClassMapping(
        arguments.class_map, arguments.unmapped, arguments.mean, arguments.trust_remote_code
    )
    if not source.index.classes:
        classes = open_teacher.read_classes(name, mapping)
        source = source.with_index(source.index.with_classes(classes))
    teacher, weak = open_teacher.open_teacher(name, source.index.classes, mapping)
    return Task(teacher, weak, source, Segmentation(_parse_seconds(segments, teacher, source)))


class RawTask(NamedTuple):
    """Teachers with their own classes, and the split that they score.

    parts: kind, where and digest of each teacher.
    """

    teachers: list[Teacher]
    parts: list[dict[str, str]]
    source: Source
    segmentation: Segmentation

    def make_scorer(self, arguments: argparse.Namespace) -> JoinedScorer:
        """Makes a scorer of segments with all teachers on this process's devices."""
        return JoinedScorer(
            self.teachers, ScoringOptions(arguments.dtype, _check_devices(arguments))
        )


def open_raw_task(arguments: argparse.Namespace, segments: str) -> RawTask:
    """Opens teachers and data as `open_task` does, and leaves the teachers' classes as they are."""
    source = _open_source(arguments)
    parts = [part for name in (arguments.model, *arguments.teacher) for part in parse_name(name)]
    trust_remote_code = arguments.trust_remote_code
    teachers = [
        open_teacher.load_teacher(part, trust_remote_code=trust_remote_code) for part in parts
    ]
    part_entries = [
        {"kind": part.kind, "where": _make_absolute(part), "digest": teacher.digest}
        for part, teacher in zip(parts, teachers, strict=True)
    ]
    return RawTask(
        teachers, part_entries, source, Segmentation(_parse_seconds(segments, teachers[0], source))
    )


def _make_absolute(part: open_teacher.Part) -> str:
    """Returns a place that is valid in any working directory."""
    is_no_path = part.kind == "python" or (
        part.kind == "transformers" and is_repository(part.where)
    )
    return part.where if is_no_path else os.path.abspath(part.where)


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


def _check_devices(arguments: argparse.Namespace) -> int | None:
    """Returns --num_devices; None: all. Raises UserError for a number with several processes."""
    devices = arguments.num_devices or None
    if devices and jax.process_count() > 1:
        raise UserError("--num_devices: several processes use all devices; leave it out")
    return devices


def _parse_seconds(segments: str, teacher: Teacher, source: Source) -> float:
    if segments == "training":
        return teacher.segment_seconds
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


def _describe_rates(data_rate: int, teacher_rate: int) -> str:
    if data_rate == teacher_rate:
        return ""
    return f", at {data_rate // 1000} kHz, resampled on the fly to {teacher_rate // 1000} kHz"


def describe_plan(
    task: Task,
    segmentation: AnySegmentation,
    *,
    scorer: SegmentScorer,
    arguments: argparse.Namespace,
    out: object,
) -> list[str]:
    """Describes what will be done, in lines; `segmentation` is how the clips are cut."""
    index = task.source.index
    work_text, batch_size, audio_seconds = _describe_work(
        segmentation, index, scorer=scorer, arguments=arguments
    )
    processes = f"{jax.process_count()} process{'es' * (jax.process_count() > 1)}"
    lines = [
        f"model   {task.teacher.summarize()}",
        f"data    {index.split}: {len(index):,} clips, {index.hours:.2f} h, ids "
        f"{index.ids_sha256[:12]}…{_describe_rates(index.sample_rate, task.teacher.rate)}",
        f"work    {work_text} of int16 [{batch_size}, {segmentation.segment_samples}] to "
        f"{arguments.dtype} probabilities [{batch_size}, {index.num_classes}], on {scorer.where} "
        f"of each of {processes}",
        f"memory  scores of all clips {4 * len(index) * index.num_classes / 1e6:,.1f} MB, a batch "
        f"{2 * batch_size * segmentation.segment_samples / 1e6:,.1f} MB",
        f"out     {out}",
    ]
    if isinstance(task.teacher, OwnTeacher) and jax.default_backend() == "cpu":
        cores, info = os.cpu_count() or 1, task.teacher.model.info
        audio_seconds *= info.architecture.relative_work(info.width)
        lines.insert(
            4, f"time    about {20 + audio_seconds / (_CPU_RATE * cores):,.0f} s, very roughly"
        )
    return lines


def _describe_work(
    segmentation: AnySegmentation,
    index: ClipIndex,
    *,
    scorer: SegmentScorer,
    arguments: argparse.Namespace,
) -> tuple[str, int, float]:
    """Returns the work in words, rows of the longest batches, and all seconds with padding."""
    batch_size = scorer.fitting(arguments.batch_size, segmentation.seconds)
    if isinstance(segmentation, WholeClips):
        lengths = np.asarray(segmentation.lengths) / SAMPLE_RATE
        padded_seconds = lengths[segmentation.number_of(index.num_samples)]
        lengths_text = ", ".join(f"{length:.3g}" for length in lengths)
        text = f"{len(index):,} whole clips, padded to {lengths_text} s: batches, the longest"
        return text, batch_size, float(padded_seconds.sum())
    num_segments = int(segmentation.count_segments(index.num_samples).sum(dtype=np.int64))
    num_batches = -(-num_segments // (batch_size * jax.process_count()))
    text = f"{num_segments:,} segments of {segmentation.seconds:g} s: {num_batches:,} batches"
    return text, batch_size, num_segments * segmentation.seconds
