"""Repairs a prepared data set that has lost shards or TFDS's files."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.corpora.clip_rows import Loaded
from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import preparation_report, shards
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map


def is_incomplete(folder: pathlib.Path) -> bool:
    """Tells whether a prepared data set lacks metadata or a shard, or a shard is cut off."""
    if not _has_metadata(folder) or _find_lost_unions(folder):
        return True
    return any(_find_wrong_shards(folder))


def _has_metadata(folder: pathlib.Path) -> bool:
    try:
        split_index_files.class_names(folder)
        return bool(split_index_files.stored_splits(folder))
    except UserError:  # no such files, or damaged ones
        return False


def _find_lost_unions(folder: pathlib.Path) -> dict[str, list[str]]:
    """Finds the unions of splits that the report tells of, where their file is missing."""
    unions: dict[str, list[str]] = {}
    if not (folder / split_index_files.UNIONS_NAME).exists():
        unions = (preparation_report.read_report(folder) or {}).get("unions", {})
    return unions


def _find_wrong_shards(folder: pathlib.Path) -> Iterator[tuple[ClipIndex, int, pathlib.Path]]:
    """Yields index, number and path of shards that are missing or of another size."""
    for split in split_index_files.stored_splits(folder):
        index = split_index_files.saved_index(folder, split)
        if index is None or index.record_bytes is None:
            continue
        ends = np.append(0, np.cumsum(index.record_bytes))[index.shard_offsets]
        paths = split_index_files.shard_names(folder, split)
        sizes = files.read_sizes(paths)
        for number, (size, expected) in enumerate(zip(sizes, np.diff(ends), strict=True)):
            if size != expected:
                yield index, number, paths[number]


def repair(
    folder: pathlib.Path,
    corpus: Corpus,
    find_rows: Callable[[Corpus], Mapping[str, Sequence[Any]]],
    num_workers: int | None,
) -> None:
    """Makes metadata again from indices, and shards from recordings. Raises UserError."""
    if not _has_metadata(folder):
        splits = split_index_files.saved_splits(folder)
        indices = {split: split_index_files.saved_index(folder, split) for split in splits}
        whole_indices = {split: index for split, index in indices.items() if index is not None}
        try:
            if not indices or len(whole_indices) < len(indices):
                raise ValueError("not all of its indices are there")
            shards.write_metadata(folder, corpus, whole_indices)
        except ValueError as error:
            raise UserError(
                f"{folder}: TFDS's metadata (dataset_info.json, features.json) are missing or "
                f"damaged, and cannot be made again ({error}): delete the folder and prepare the "
                "data anew"
            ) from error
        print(f"{folder}: TFDS's metadata were missing or damaged, and are written again")
    if lost_unions := _find_lost_unions(folder):
        files.write_json(folder / split_index_files.UNIONS_NAME, lost_unions)
        print(f"{folder / split_index_files.UNIONS_NAME}: was missing, and is written again")
    wrong_shards = list(_find_wrong_shards(folder))
    if not wrong_shards:
        return
    rows = find_rows(corpus)
    all_rows = [row for split_rows in rows.values() for row in split_rows]
    for index, number, path in progress.track(wrong_shards, len(wrong_shards), "shards", "mend"):
        # A split that was added later may hold clips that `rows` has in another split.
        rows_by_id = {row.id: row for row in [*all_rows, *rows.get(index.split, ())]}
        clips = range(*index.shard_offsets[number : number + 2])
        with files.atomic_path(path) as temporary:
            loaded = _load_again(path, index, clips, rows_by_id, corpus, num_workers)
            shards.write_shard(temporary, loaded, corpus.has_events)
        print(f"{path}: was missing or cut off, and is made again")


def _load_again(
    path: pathlib.Path,
    index: ClipIndex,
    clips: range,
    rows: Mapping[str, Any],
    corpus: Corpus,
    num_workers: int | None,
) -> Iterator[Loaded]:
    """Loads clips of a shard as the index has them. Raises UserError where they have changed."""

    def make_error(reason: str) -> UserError:
        return UserError(
            f"{path} is missing or cut off and cannot be made again: {reason}. Restore the "
            "recordings, copy the shard from elsewhere, or delete the data set's folder and "
            "prepare it anew"
        )

    ids = index.ids[clips.start : clips.stop].tolist()
    if lost := [clip_id for clip_id in ids if clip_id not in rows]:
        what = f"{len(lost)} of its clips have no audio any more, such as {lost[0]!r}"
        raise make_error(what)
    loaded = ordered_map(corpus.loader(), (rows[clip_id] for clip_id in ids), num_workers)
    for clip, clip_id, item in zip(clips, ids, loaded, strict=True):
        if item.clip is None:
            problem = item.problems[-1]
            raise make_error(f"{problem.file}: {problem.kind}")
        digests = index.audio_digests
        if digests is not None and item.clip.description.digest != int(digests[clip]):
            raise make_error(f"the audio of clip {clip_id!r} is another one now")
        yield item
