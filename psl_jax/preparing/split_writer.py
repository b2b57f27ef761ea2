"""Writes the rows of a split as shards, and their index.

Whole shards are kept for the next start, whatever ends this one. A part is a shard whose final
number is not known yet. It lies in the unfinished folder of the data set. In a folder beside that,
a JSON record describes its contents, its rows and its size. We write the record after the shard has
reached the disk; only then the shard counts.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import pickle
import shlex
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from psl_jax.corpora.corpus import Corpus, Loaded, Problem
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipDescription, ClipIndex
from psl_jax.preparing import shards
from psl_jax.preparing.shards import ShardContents
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.runtime.paths import path_of


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive rows of a split, and the paths of their shard and of its record."""

    shard: pathlib.Path
    record: pathlib.Path
    rows: Sequence[Any]

    @property
    def rows_digest(self) -> str:
        """A hash that changes with any row: rows are dataclasses of plain values."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr(row).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def write(self, loaded: Iterable[Loaded], has_events: bool, mark: str = "") -> None:
        """Writes the shard from its loaded rows, and the record; `mark`: see `atomic_path`."""
        with files.atomic_path(self.shard, mark) as temporary:
            contents = shards.write_shard(temporary, loaded, has_events)
            if contents.clips:  # a machine that is preempted loses what it has not flushed
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
        record = {
            "rows": self.rows_digest,
            "clips": [_clip_to_json(clip) for clip in contents.clips],
            "problems": [dataclasses.asdict(problem) for problem in contents.problems],
            "num_bytes": contents.num_bytes,
        }
        files.write_json(self.record, record, indent=None)

    def read_record(self) -> ShardContents | None:
        """Reads what the shard holds, be it there or not; None without a record of these rows."""
        try:
            record = files.read_json(self.record)
            if record["rows"] != self.rows_digest:
                return None
            return ShardContents(
                [ClipDescription(*fields) for fields in record["clips"]],
                [Problem(**fields) for fields in record["problems"]],
                record["num_bytes"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged by a power cut: the part is made again


def _clip_to_json(clip: ClipDescription) -> list[Any]:
    """Converts a clip to JSON values: some corpora's numbers are NumPy's."""
    events = clip.events
    if events is not None:
        events = [(float(onset), float(offset), int(label)) for onset, offset, label in events]
    labels, unknown = list(map(int, clip.labels)), list(map(int, clip.unknown))
    return list(clip._replace(labels=labels, events=events, unknown=unknown))


def write_split(
    corpus: Corpus,
    split: str,
    rows: Sequence[Any],
    *,
    folder: pathlib.Path,
    record_folder: pathlib.Path,
    num_workers: int | None,
    beam_options: str | None,
) -> tuple[ClipIndex, list[Problem]]:
    """Writes a split into `folder`; returns its index, and the problems of its rows.

    record_folder: where the records of its parts lie. beam_options: of a Beam pipeline, whose
    workers write the shards; None: this process does. Raises UserError without any clip.
    """
    parts = [
        Part(
            folder / f"part-{split}-{number:05d}",
            record_folder / f"{split}-{number:05d}.json",
            rows[row_slice],
        )
        for number, row_slice in enumerate(shards.plan_shards(len(rows)))
    ]

    def make_final_path(number: int, count: int) -> pathlib.Path:
        return shards.make_shard_path(folder, corpus.name, split=split, number=number, count=count)

    whole = _find_whole(parts, make_final_path)
    missing = [part for part, contents in zip(parts, whole, strict=True) if contents is None]
    if len(missing) < len(parts):
        print(f"{split}: {len(parts) - len(missing)} of {len(parts)} shards are there")
    if missing and beam_options is not None:
        _write_by_beam(missing, corpus, split=split, options=beam_options)
    elif missing:
        _write_parts(missing, corpus, split, num_rows=len(rows), num_workers=num_workers)
    if missing:
        whole = _find_whole(parts, make_final_path)
    clips: list[ClipDescription] = []
    problems: dict[Problem, Any] = {}  # keys: once for all clips of a recording
    kept_parts, sizes = [], []
    for part, contents in zip(parts, whole, strict=True):
        assert contents is not None
        clips += contents.clips
        problems |= dict.fromkeys(contents.problems)
        if contents.clips:
            kept_parts.append(part)
            sizes.append(len(contents.clips))
    if not clips:
        raise corpus.nothing_left(split, list(problems))
    for number, part in enumerate(kept_parts):
        if part.shard.exists():  # else it was renamed by the start before
            part.shard.rename(make_final_path(number, len(kept_parts)))
    index = split_index_files.build_index(split, corpus.classes, clips, sizes, corpus.sample_rate)
    index.save(split_index_files.index_path(folder, split))
    return index, list(problems)


def _find_whole(
    parts: Sequence[Part], make_final_path: Callable[[int, int], pathlib.Path]
) -> list[ShardContents | None]:
    """The contents of each part's shard, None for parts that are not whole.

    make_final_path(number, count): where a shard with clips lies once all are whole.
    """
    all_contents = [part.read_record() for part in parts]
    final_paths = []
    if None not in all_contents:
        count = sum(bool(contents and contents.clips) for contents in all_contents)
        final_paths = [make_final_path(number, count) for number in range(count)]
    final_sizes = iter(files.read_sizes(final_paths))
    whole_contents = []
    for contents, size in zip(
        all_contents, files.read_sizes([part.shard for part in parts]), strict=True
    ):
        if contents is not None and contents.clips:
            is_whole = contents.num_bytes in (size, next(final_sizes, None))
            contents = contents if is_whole else None
        whole_contents.append(contents)
    return whole_contents


def _write_parts(
    parts: Sequence[Part], corpus: Corpus, split: str, *, num_rows: int, num_workers: int | None
) -> None:
    """Writes parts of a split of `num_rows` one after the other; threads load clips."""
    rows = [row for part in parts for row in part.rows]

    def load_rows() -> Generator[Loaded, None, None]:
        with progress.bar(num_rows, "clips", f"prepare {split}", num_rows - len(rows)) as bar:
            for item in ordered_map(corpus.loader(), rows, num_workers):
                bar.update()
                yield item

    with contextlib.closing(load_rows()) as loaded:  # in the order of the rows
        for part in parts:
            part.write(itertools.islice(loaded, len(part.rows)), corpus.has_events)


# --- Beam -----------------------------------------------------------------------------------------


def _write_by_beam(parts: Sequence[Part], corpus: Corpus, *, split: str, options: str) -> None:
    """Writes each of the parts in one step of one worker of a Beam pipeline, on any runner.

    Rows go to the workers, and records of their shards come back, as small files beside the shards:
    neither fits into a pipeline's description. So all workers must see the data folder and the
    recordings, as on a shared file system.

    options: command line of the pipeline, such as "--runner=FlinkRunner --flink_master=...".
    """
    beam, pipeline_options = import_beam(options)
    job_paths = [part.record.with_suffix(".job") for part in parts]
    for part, job_path in zip(parts, job_paths, strict=True):
        with files.atomic_open(job_path, "wb") as file:
            pickle.dump((part, corpus.loader(), corpus.has_events), file)
    name = f"{corpus.name} {split}"
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
