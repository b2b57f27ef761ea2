"""Writes a teacher's soft labels of a split's segments, which several experiments may share.

    psl-jax relabel runs/teacher DATA --segment_seconds=2 --out=labels/2s
    psl-jax main --config configs/psl2s.py --config.teacher=runs/teacher \\
        --config.soft_labels_dir=labels/2s ...

The same command continues a relabeling that was stopped. Several processes can share one
(--distributed), or workers of a Beam pipeline, which join and leave (--beam_options). The data may
have fewer classes than the teacher, in another order: classes are matched by name, or by
--class_map. docs/TEACHERS.md describes other taggers:

    psl-jax relabel tflite:yamnet.tflite DATA --class_map=CLASSES.csv ...
"""

import argparse
import dataclasses
import functools
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, check_hop
from psl_jax.data.soft_labels import SoftLabels, missing_shards
from psl_jax.preparing.split_writer import open_beam
from psl_jax.runtime import cli_entry, parallel, run_files
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import relabeling
from psl_jax.scoring.scorer import SegmentScorer
from psl_jax.scoring.settings import RelabelSettings
from psl_jax.teachers import scoring_cli

_scoring = threading.Lock()  # a worker of Beam has several threads, and a device at most


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = scoring_cli.make_parser("relabel", __doc__ or "")
    add_segments(parser.add_argument)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder where the labels are written (required)"
    )
    parser.add_argument(
        "--beam_options",
        metavar="OPTIONS",
        help="options of a Beam pipeline whose workers write the shards, in one quoted string, "
        "such as --runner=FlinkRunner (default: this machine writes them, without Beam)",
    )
    group = parser.add_argument_group(
        "how labels are made",
        "config.relabel of runs that use them needs the same dtype, class_map, unmapped and:",
    )
    add = functools.partial(cli_entry.add_setting, group, RelabelSettings)
    add("count_padding")
    parsed = parser.parse_intermixed_args(arguments[1:])
    if parsed.beam_options and parsed.distributed:
        parser.error("--distributed: the pipeline of --beam_options has its own workers")
    return parsed


def add_segments(add: Callable[..., Any]) -> None:
    """Adds, by `add` of a parser, how clips are divided into segments of a length."""
    add(
        "--hop_seconds",
        type=cli_entry.make_number_reader("hop_seconds", float, least=0, most=3600),
        metavar="S",
        help="seconds from the start of one segment to the start of the next (default: the "
        "length of a segment)",
    )
    add(
        "--shortest_segment_seconds",
        type=cli_entry.make_number_reader("shortest_segment_seconds", float, least=0, most=3600),
        default=MIN_SEGMENT_SECONDS,
        metavar="S",
        help="shortest remainder at a clip's end that becomes a segment, in seconds; shorter "
        f"ones are dropped (default: {MIN_SEGMENT_SECONDS:g})",
    )


def main(arguments: argparse.Namespace) -> None:
    """Relabels, and tells what the labels are like."""
    command_line, out = json.dumps(vars(arguments)), path_of(arguments.out)
    task, scorer = _open(command_line)
    scoring_cli.print_plan(task, task.segmentation, scorer=scorer, arguments=arguments, out=out)
    if arguments.dry_run:
        return

    def tell() -> None:
        tell_quality(SoftLabels.open(out, task.source.index, task.segmentation))

    with run_files.claim_folder(out, "--out"):
        if arguments.beam_options:
            # Workers may join and leave. Each opens the teacher once, and must see data, teacher
            # and soft labels, as on a shared file system or in a bucket.
            run_beam = open_beam(arguments.beam_options)
            _write_shards([], command_line)  # the manifest
            run_beam("relabel", missing_shards(out), _write_shard, command_line)
        else:
            _write_shards(None, command_line)
        parallel.wait_for_all("relabel")
        parallel.run_in_first_process("label quality", tell)


@functools.lru_cache(1)
def _open(command_line: str) -> tuple[scoring_cli.Task, SegmentScorer]:
    """Opens teacher and data of a command line; the same one in a process once."""
    arguments = argparse.Namespace(**json.loads(command_line))
    task = scoring_cli.open_task(arguments)
    segmentation = dataclasses.replace(
        task.segmentation,
        hop_seconds=arguments.hop_seconds or None,
        shortest_seconds=arguments.shortest_segment_seconds,
    )
    check_hop(segmentation, "--hop_seconds")
    task = task._replace(segmentation=segmentation)
    return task, task.teacher.make_scorer(task.settings)


def _write_shards(shards: list[int] | None, command_line: str) -> None:
    """Writes the missing ones of `shards`; None: those that fall to this process."""
    arguments = json.loads(command_line)
    task, scorer = _open(command_line)
    relabeling.relabel(
        scorer,
        task.source,
        task.segmentation,
        path_of(arguments["out"]),
        teacher=task.teacher.identity,
        batch_size=arguments["batch_size"],
        rule=task.settings,
        shards=shards,
    )


def _write_shard(shard: int, command_line: str) -> None:
    with _scoring:
        _write_shards([shard], command_line)


def tell_quality(labels: Any) -> None:
    """Measures what soft labels are like, keeps it beside them and prints it."""
    from psl_jax.experiments.soft_label_stage import write_label_quality

    quality = write_label_quality(labels, labels.directory)
    statistics = quality["statistics"]
    mean, empty = statistics["mean_labels"], statistics["share_without_labels"]
    print(
        f"labels a clip (above {statistics['threshold']:g}): {mean['soft']:.2f}, weak ones "
        f"{mean['weak']:.2f}; clips without any: {100 * empty['soft']:.1f} %, weak "
        f"{100 * empty['weak']:.1f} %"
    )
    if segment_map := quality.get("segment_mAP"):
        print(
            f"against the true events, segment by segment: {100 * segment_map['soft']:.2f} mAP, "
            f"weak labels {100 * segment_map['weak']:.2f}"
        )
    print(f"soft labels of {len(labels.index):,} clips in {labels.directory}")
