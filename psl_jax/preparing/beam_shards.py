"""Shards written by the workers of a Beam pipeline, on any runner.

Rows go to the workers, and what they wrote comes back, as small files beside the shards: neither
fits into a pipeline's description. So all workers must see the data folder and the recordings, as
on a shared file system.
"""

import dataclasses
import os
import pickle
import shlex
import uuid
from collections.abc import Sequence
from typing import Any

from psl_jax.corpora import clip_rows
from psl_jax.preparing import unfinished_shards
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import path_of


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker needs to write a shard."""

    part: unfinished_shards.Part
    loader: clip_rows.Loader
    has_events: bool


def write_parts(
    wanted: Sequence[unfinished_shards.Part],
    *,
    loader: clip_rows.Loader,
    has_events: bool,
    options: str,
    name: str,
) -> None:
    """Writes each of the `wanted` parts in one step of one Beam worker.

    Args:
      options: command line of the pipeline, such as "--runner=FlinkRunner --flink_master=...".
      name: of the step.

    Raises:
      UserError: Beam is not installed, or its options are wrong.
    """
    beam, pipeline_options = _beam(options)
    jobs = [part.told.with_suffix(".job") for part in wanted]
    for part, path in zip(wanted, jobs, strict=True):
        with files.atomic_open(path, "wb") as file:
            pickle.dump(_Job(part, loader, has_events), file)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = (
            pipeline
            | f"{name}: shards" >> beam.Create([os.fspath(path) for path in jobs])
            | f"{name}: share out" >> beam.Reshuffle()
            | f"{name}: write" >> beam.Map(write_one)
        )


def write_one(path: str) -> str:
    """Writes one part under a name of its own, and renames it: workers may do a job twice."""
    job: _Job = pickle.loads(path_of(path).read_bytes())
    loaded = map(job.loader, job.part.rows)
    unfinished_shards.write(job.part, loaded, job.has_events, mark=f"{uuid.uuid4().hex}.")
    return path


def _beam(options: str) -> tuple[Any, Any]:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise MissingPackageError("--beam_options", "Apache Beam", "beam") from error
    arguments = shlex.split(options)
    if wrong := [argument for argument in arguments if not argument.startswith("--")]:
        raise UserError(
            f"--beam_options: {wrong[0]!r} is no option; expected such as "
            '"--runner=DirectRunner --direct_num_workers=4"'
        )
    return beam, PipelineOptions(arguments)
