"""Writes shards by the workers of a Beam pipeline, on any runner.

Rows go to the workers, and records of their shards come back, as small files beside the shards:
neither fits into a pipeline's description. So all workers must see the data folder and the
recordings, as on a shared file system.
"""

import os
import pickle
import shlex
import uuid
from collections.abc import Sequence
from typing import Any

from psl_jax.corpora.clip_rows import Loader
from psl_jax.preparing.unfinished_shards import Part
from psl_jax.runtime import files
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.paths import path_of


def write_parts(
    parts: Sequence[Part], *, loader: Loader, has_events: bool, options: str, name: str
) -> None:
    """Writes each of the parts in one step of one Beam worker.

    Args:
      options: command line of the pipeline, such as "--runner=FlinkRunner --flink_master=...".
      name: name of the step.

    Raises UserError where Beam is not installed, or its options are wrong.
    """
    beam, pipeline_options = import_beam(options)
    job_paths = [part.record.with_suffix(".job") for part in parts]
    for part, job_path in zip(parts, job_paths, strict=True):
        with files.atomic_open(job_path, "wb") as file:
            pickle.dump((part, loader, has_events), file)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = (
            pipeline
            | f"{name}: shards" >> beam.Create([os.fspath(job_path) for job_path in job_paths])
            | f"{name}: share out" >> beam.Reshuffle()
            | f"{name}: write" >> beam.Map(write_shard_of_job)
        )


def write_shard_of_job(path: str) -> str:
    """Writes one part under a unique name, and renames it: workers may do a job twice."""
    part, loader, has_events = pickle.loads(path_of(path).read_bytes())
    part.write(map(loader, part.rows), has_events, mark=f"{uuid.uuid4().hex}.")
    return path


def import_beam(options: str) -> tuple[Any, Any]:
    """Returns Beam, and the options of a pipeline from their command line. Raises UserError."""
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
