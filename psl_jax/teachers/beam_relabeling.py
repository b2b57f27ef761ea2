"""Relabels by the workers of a Beam pipeline, which may join and leave, on any runner.

A worker opens the teacher once, and writes the shards of soft labels that it is given. All workers
must see data, teacher and soft labels, as on a shared file system or in a bucket.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import threading
from typing import NamedTuple

from psl_jax.audio.segments import check_hop
from psl_jax.data import soft_labels
from psl_jax.preparing.split_writer import import_beam
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import relabeling
from psl_jax.scoring.scorer import SegmentScorer
from psl_jax.teachers import scoring_cli

_scoring = threading.Lock()  # a worker has several threads, and a device at most


class Relabeling(NamedTuple):
    """All that a process needs to write shards of soft labels."""

    task: scoring_cli.Task
    scorer: SegmentScorer
    out: pathlib.Path
    batch_size: int

    def write(self, shards: list[int] | None = None) -> None:
        """Writes the missing ones of `shards`; None: those that fall to this process."""
        relabeling.relabel(
            self.scorer,
            self.task.source,
            self.task.segmentation,
            self.out,
            teacher=self.task.teacher.identity,
            batch_size=self.batch_size,
            rule=self.task.settings,
            shards=shards,
        )


def open_relabeling(arguments: argparse.Namespace) -> Relabeling:
    """Opens teacher and data of a command line of relabel; the same one in a process once."""
    return _open(json.dumps(vars(arguments)))


@functools.lru_cache(1)
def _open(command_line: str) -> Relabeling:
    arguments = argparse.Namespace(**json.loads(command_line))
    task = scoring_cli.open_task(arguments)
    segmentation = dataclasses.replace(
        task.segmentation,
        hop_seconds=arguments.hop_seconds or None,
        shortest_seconds=arguments.shortest_segment_seconds,
    )
    check_hop(segmentation, "--hop_seconds")
    task = task._replace(segmentation=segmentation)
    out = path_of(arguments.out)
    return Relabeling(task, task.make_scorer(), out, arguments.batch_size)


def relabel_by_beam(arguments: argparse.Namespace) -> None:
    """Writes all missing shards by the workers of the pipeline of `--beam_options`.

    Raises UserError where Beam is not installed, or its options are wrong.
    """
    beam, pipeline_options = import_beam(arguments.beam_options)
    work = open_relabeling(arguments)
    work.write([])  # the manifest
    missing = soft_labels.missing_shards(work.out)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = (
            pipeline
            | "relabel: shards" >> beam.Create(missing)
            | "relabel: share out" >> beam.Reshuffle()
            | "relabel: write" >> beam.Map(_write_shard, json.dumps(vars(arguments)))
        )


def _write_shard(shard: int, command_line: str) -> int:
    with _scoring:
        _open(command_line).write([shard])
    return shard
