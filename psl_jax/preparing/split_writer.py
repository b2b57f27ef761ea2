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

from psl_jax.corpora.corpus import Clip, Corpus, Loaded, Problem
from psl_jax.data import record_files, split_index_files
from psl_jax.data.clip_index import ClipDescription, ClipIndex
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import MissingPackageError, UserError
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

# Shards are small (80 MB of 10 s clips), and even a small split has several: who writes, streams or
# relabels a split shares its shards with others.
CLIPS_PER_SHARD = 256
MIN_SHARDS = 8


@dataclasses.dataclass
class ShardContents:
    """The contents of one shard, or of several, without the audio."""

    clips: list[ClipDescription] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)
    num_bytes: int = 0


def plan_shards(num_rows: int) -> list[slice]:
    """Plans the rows of each shard. Unusable clips make their shard smaller."""
    num_shards = max(-(-num_rows // CLIPS_PER_SHARD), min(MIN_SHARDS, num_rows), 1)
    shard_rows = max(-(-num_rows // num_shards), 1)
    return [
        slice(start, min(start + shard_rows, num_rows)) for start in range(0, num_rows, shard_rows)
    ]


def make_shard_path(
    folder: pathlib.Path, name: str, *, split: str, number: int, count: int
) -> pathlib.Path:
    """Makes the path where TFDS looks for shard `number` of `count` of a split."""
    return folder / f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write_shard(
    path: str | os.PathLike[str], loaded: Iterable[Loaded], has_events: bool
) -> ShardContents:
    """Writes clips as they are loaded, so that one is in memory; writes no file without clips."""
    tf = tensorflow_quietly()
    contents, writer = ShardContents(), None
    with contextlib.ExitStack() as stack:
        for item in loaded:
            contents.problems += item.problems
            if item.clip is None:
                continue
            clip = item.clip
            writer = writer or stack.enter_context(tf.io.TFRecordWriter(os.fspath(path)))
            record = serialize(clip, events=has_events)
            writer.write(record)
            size = len(record) + record_files.FRAMING_BYTES
            contents.clips.append(clip.description._replace(record_bytes=size))
    if contents.clips:
        contents.num_bytes = os.path.getsize(path)
    return contents


def serialize(clip: Clip, *, events: bool) -> bytes:
    """Serializes a clip for `make_features(..., events=events)`, to the bytes that TFDS writes.

    TFDS's serializer copies the audio several times, which is most of the time of a 16 kHz clip.
    The order of features is fixed, else files would differ between processes.
    """
    example = tensorflow_quietly().train.Example()
    fields = example.features.feature
    fields["id"].bytes_list.value.append(clip.id.encode())
    fields["audio"].bytes_list.value.append(clip.audio.astype("<i2", copy=False).tobytes())
    fields["labels"].int64_list.value.extend(clip.labels)
    if events:
        onsets, offsets, labels = zip(*clip.events, strict=True) if clip.events else ((), (), ())
        fields["events/onset"].float_list.value.extend(onsets)
        fields["events/offset"].float_list.value.extend(offsets)
        fields["events/label"].int64_list.value.extend(labels)
    if clip.unknown:
        fields["unknown_labels"].int64_list.value.extend(clip.unknown)
    record: bytes = example.SerializeToString(deterministic=True)
    return record


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
            contents = write_shard(temporary, loaded, has_events)
            if contents.clips:  # a machine that is preempted loses what it has not flushed
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
        record = {
            "rows": self.rows_digest,
            "clips": contents.clips,
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
        for number, row_slice in enumerate(plan_shards(len(rows)))
    ]

    def make_final_path(number: int, count: int) -> pathlib.Path:
        return make_shard_path(folder, corpus.name, split=split, number=number, count=count)

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
    part_sizes = files.read_sizes([part.shard for part in parts])
    whole_contents = []
    for contents, size in zip(all_contents, part_sizes, strict=True):
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
    """
    run_beam = open_beam(options)
    job_paths = [part.record.with_suffix(".job") for part in parts]
    for part, job_path in zip(parts, job_paths, strict=True):
        with files.atomic_open(job_path, "wb") as file:
            pickle.dump((part, corpus.loader(), corpus.has_events), file)
    run_beam(f"{corpus.name} {split}", list(map(os.fspath, job_paths)), write_shard_of_job)


def write_shard_of_job(path: str) -> str:
    """Writes one part under a unique name, and renames it: workers may do a job twice."""
    part, loader, has_events = pickle.loads(path_of(path).read_bytes())
    part.write(map(loader, part.rows), has_events, mark=f"{uuid.uuid4().hex}.")
    return path


def open_beam(options: str) -> Callable[..., None]:
    """Opens Beam: run(name, items, function, *arguments) has the workers of a pipeline call
    function(item, *arguments) for each item.

    options: command line of the pipeline, such as "--runner=FlinkRunner --flink_master=...". Raises
    UserError where Beam is not installed, or they are wrong.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise MissingPackageError("--beam_options", "Apache Beam", "beam") from error
    flags = shlex.split(options)
    if wrong := [flag for flag in flags if not flag.startswith("--")]:
        raise UserError(
            f"--beam_options: {wrong[0]!r} is no option; expected such as "
            '"--runner=DirectRunner --direct_num_workers=4"'
        )
    beam: Any = apache_beam  # which has no types
    pipeline_options = PipelineOptions(flags)

    def run(name: str, items: Sequence[Any], function: Callable[..., Any], *arguments: Any) -> None:
        with beam.Pipeline(options=pipeline_options) as pipeline:
            _ = (
                pipeline
                | f"{name}: shards" >> beam.Create(items)
                | f"{name}: share out" >> beam.Reshuffle()
                | f"{name}: write" >> beam.Map(function, *arguments)
            )

    return run
