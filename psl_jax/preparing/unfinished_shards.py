"""Keeps whole shards of a preparation for the next start, whatever ends this one.

A part is a shard whose final number is not known yet. It lies in the unfinished folder of the data
set. In a folder beside that, a JSON record describes its contents, its rows and its size. We write
the record after the shard has reached the disk; only then the shard counts.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from psl_jax.corpora import clip_rows
from psl_jax.corpora.clip_rows import Problem
from psl_jax.data.clip_index import ClipDescription
from psl_jax.preparing import shards
from psl_jax.runtime import files


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


def plan_parts(
    folder: pathlib.Path, record_folder: pathlib.Path, *, split: str, rows: Sequence[Any]
) -> list[Part]:
    """Plans the parts of a split."""
    return [
        Part(folder / f"part-{name}", record_folder / f"{name}.json", rows[row_slice])
        for number, row_slice in enumerate(shards.plan_shards(len(rows)))
        for name in [f"{split}-{number:05d}"]
    ]


def write(
    part: Part, loaded: Iterable[clip_rows.Loaded], has_events: bool, mark: str = ""
) -> shards.ShardContents:
    """Writes the shard of a part from its loaded rows; `mark`: see `files.atomic_path`."""
    with files.atomic_path(part.shard, mark) as temporary:
        contents = shards.write_shard(temporary, loaded, has_events)
        if contents.clips:
            _flush_to_disk(temporary)
    record = {
        "rows": part.rows_digest,
        "clips": [_clip_to_json(clip) for clip in contents.clips],
        "problems": [dataclasses.asdict(problem) for problem in contents.problems],
        "source_rates": dict(contents.source_rates),
        "num_bytes": contents.num_bytes,
    }
    files.write_json(part.record, record, indent=None)
    return contents


def find_whole(parts: Sequence[Part], final: Sequence[pathlib.Path] = ()) -> list[Any]:
    """Returns the contents of each part's shard, None for parts not whole or of other rows.

    final: final paths of the shards with clips, where they may have been renamed to.
    """
    records = read_records(parts)
    sizes_of_parts, final_sizes = (
        files.read_sizes([part.shard for part in parts]),
        iter(files.read_sizes(final)),
    )
    whole_contents = []
    for contents, size in zip(records, sizes_of_parts, strict=True):
        sizes = (
            {size, next(final_sizes, None)} if contents is not None and contents.clips else set()
        )
        is_whole = contents is not None and (not contents.clips or contents.num_bytes in sizes)
        whole_contents.append(contents if is_whole else None)
    return whole_contents


def read_records(parts: Sequence[Part]) -> list[Any]:
    """Reads the record of each part, whether its shard exists or not; None without a record."""
    return [_read_record(part) for part in parts]


def _read_record(part: Part) -> shards.ShardContents | None:
    """Reads the record of a part; None where there is none, or one of other rows."""
    try:
        record = files.read_json(part.record)
        if record["rows"] != part.rows_digest:
            return None
        return shards.ShardContents(
            [_clip_from_json(*fields) for fields in record["clips"]],
            [Problem(**fields) for fields in record["problems"]],
            collections.Counter(
                {int(rate): count for rate, count in record["source_rates"].items()}
            ),
            record["num_bytes"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged by a power cut: the part is made again


def _clip_to_json(clip: ClipDescription) -> list[Any]:
    """Converts a clip to JSON values: some corpora's numbers are NumPy's."""
    events = clip.events
    if events is not None:
        events = [(float(onset), float(offset), int(label)) for onset, offset, label in events]
    labels, unknown = ([int(label) for label in numbers] for numbers in (clip.labels, clip.unknown))
    return list(clip._replace(labels=labels, events=events, unknown=unknown))


def _clip_from_json(
    clip_id: str, num_samples: int, labels: list[int], events: Any, *other_fields: Any
) -> ClipDescription:
    if events is not None:
        events = tuple((onset, offset, label) for onset, offset, label in events)
    return ClipDescription(clip_id, num_samples, tuple(labels), events, *other_fields)


def _flush_to_disk(path: str | os.PathLike[str]) -> None:
    """Flushes a file to the disk: a machine that is preempted loses what it has not flushed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
