"""Shards written by the workers of a Beam pipeline, on any runner.

Rows go to the workers, and what they wrote comes back, as small files beside the shards: neither
fits into a pipeline's description. So all workers must see the data folder and the recordings, as
on a shared file system.
"""

import dataclasses
import os
import pathlib
import pickle
import shlex
import uuid
from collections.abc import Sequence
from typing import Any

from psl_jax.corpora import clip_rows
from psl_jax.preparing import shards
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker needs to write a shard."""

    rows: Sequence[Any]
    loader: clip_rows.Loader
    has_events: bool


def write_shards(
    rows: Sequence[Sequence[Any]],
    paths: Sequence[pathlib.Path],
    *,
    loader: clip_rows.Loader,
    has_events: bool,
    options: str,
    name: str,
) -> list[shards.ShardContents]:
    """Writes shard `paths[k]` from `rows[k]`, each in one step of one Beam worker.

    Args:
      options: command line of the pipeline, such as "--runner=FlinkRunner --flink_master=...".
      name: of the step.

    Raises:
      UserError: Beam is not installed, or its options are wrong.
    """
    beam, pipeline_options = _beam(options)
    for part, path in zip(rows, paths, strict=True):
        with files.atomic_open(_job_path(path), "wb") as file:
            pickle.dump(_Job(part, loader, has_events), file)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = (
            pipeline
            | f"{name}: shards" >> beam.Create([os.fspath(path) for path in paths])
            | f"{name}: share out" >> beam.Reshuffle()
            | f"{name}: write" >> beam.Map(write_one)
        )
    written = []
    for path in paths:
        written.append(pickle.loads(_contents_path(path).read_bytes()))
        _contents_path(path).unlink()
        _job_path(path).unlink()
    return written


def write_one(path: str) -> str:
    """Writes one shard under a name of its own, and renames it: workers may do a job twice."""
    job: _Job = pickle.loads(_job_path(path).read_bytes())
    with files.atomic_path(path, mark=f"{uuid.uuid4().hex}.") as temporary:
        contents = shards.write_shard(temporary, map(job.loader, job.rows), job.has_events)
    with files.atomic_open(_contents_path(path), "wb") as file:
        pickle.dump(contents, file)
    return path


def _job_path(path: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(f"{os.fspath(path)}.job")


def _contents_path(path: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(f"{os.fspath(path)}.contents")


def _beam(options: str) -> tuple[Any, Any]:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "--beam_options needs Apache Beam: install it with pip install 'psl_jax[beam]'"
        ) from error
    arguments = shlex.split(options)
    if wrong := [argument for argument in arguments if not argument.startswith("--")]:
        raise UserError(
            f"--beam_options: {wrong[0]!r} is no option; expected such as "
            '"--runner=DirectRunner --direct_num_workers=4"'
        )
    return beam, PipelineOptions(arguments)
