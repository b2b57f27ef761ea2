"""Shards as they are made: those that are whole are kept by the next start, whatever ends this one.

A part is a shard before it is known how many there are. It lies in the folder of the data set to
be; in a folder beside that, a JSON file tells what it holds, of which rows it was made and how
large it is. That file is written after its shard has reached the disk, and makes it count.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from psl_jax.corpora import clip_rows
from psl_jax.corpora.preparation_problems import Problem
from psl_jax.data.clip_index import ClipDescription
from psl_jax.preparing import shards
from psl_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a split's rows, where its shard goes, and where it is told what that holds."""

    shard: pathlib.Path
    told: pathlib.Path
    rows: Sequence[Any]

    @property
    def rows_digest(self) -> str:
        """Changes with any row: rows are dataclasses of plain values."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr(row).encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def plan(folder: pathlib.Path, told: pathlib.Path, split: str, rows: Sequence[Any]) -> list[Part]:
    """The parts of a split; `told` is the folder of what is known of them."""
    return [
        Part(folder / f"part-{name}", told / f"{name}.json", rows[stretch])
        for number, stretch in enumerate(shards.plan(len(rows)))
        for name in [f"{split}-{number:05d}"]
    ]


def write(
    part: Part, loaded: Iterable[clip_rows.Loaded], has_events: bool, mark: str = ""
) -> shards.ShardContents:
    """Writes the shard of a part from what its rows gave; `mark`: see `files.atomic_path`."""
    with files.atomic_path(part.shard, mark) as temporary:
        contents = shards.write_shard(temporary, loaded, has_events)
        if contents.clips:
            _to_disk(temporary)
    record = {
        "rows": part.rows_digest,
        "clips": [_told_clip(clip) for clip in contents.clips],
        "problems": [dataclasses.asdict(problem) for problem in contents.problems],
        "source_rates": dict(contents.source_rates),
        "num_bytes": contents.num_bytes,
    }
    files.write_json(part.told, record, indent=None)
    return contents


def whole(parts: Sequence[Part], final: Sequence[pathlib.Path] = ()) -> list:
    """What each part's shard holds, None for those that are not whole or are of other rows.

    final: where the shards are to be found instead, those with clips, if they are renamed already.
    """
    told = read(parts)
    own, others = files.read_sizes([part.shard for part in parts]), iter(files.read_sizes(final))
    found = []
    for contents, size in zip(told, own, strict=True):
        sizes = {size, next(others, None)} if contents is not None and contents.clips else set()
        is_there = contents is not None and (not contents.clips or contents.num_bytes in sizes)
        found.append(contents if is_there else None)
    return found


def read(parts: Sequence[Part]) -> list:
    """What is told of each part, whether its shard is there or not; None where nothing is."""
    return [_read(part) for part in parts]


def _read(part: Part) -> shards.ShardContents | None:
    """What is told of a part; None where nothing is, or of other rows."""
    try:
        told = files.read_json(part.told)
        if told["rows"] != part.rows_digest:
            return None
        return shards.ShardContents(
            [_clip(*fields) for fields in told["clips"]],
            [Problem(**fields) for fields in told["problems"]],
            collections.Counter({int(rate): n for rate, n in told["source_rates"].items()}),
            told["num_bytes"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # of a power cut: made again


def _told_clip(clip: ClipDescription) -> list[Any]:
    """A clip as JSON has it: some corpora's numbers are NumPy's."""
    events = clip.events
    if events is not None:
        events = [(float(onset), float(offset), int(label)) for onset, offset, label in events]
    return list(clip._replace(labels=[int(label) for label in clip.labels], events=events))


def _clip(clip_id: str, num_samples: int, labels: list, events: Any, *more: Any) -> ClipDescription:
    if events is not None:
        events = tuple((onset, offset, label) for onset, offset, label in events)
    return ClipDescription(clip_id, num_samples, tuple(labels), events, *more)


def _to_disk(path: str | os.PathLike) -> None:
    """A machine that is taken away takes along what was not written out."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
