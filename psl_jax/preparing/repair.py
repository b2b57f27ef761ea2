"""A prepared data set that has lost shards or TFDS's files: what is missing is made again."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import dataset_files, preparation_report, shards
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map


def lacks(folder: pathlib.Path, corpus: Corpus) -> bool:
    """Whether a file of metadata or a shard of a prepared data set is gone, or a shard cut off."""
    if not _has_metadata(folder) or _lacks_unions(folder, corpus):
        return True
    return any(
        wrong_shards(folder, split, index)
        for split in split_index_files.stored_splits(folder)
        if (index := split_index_files.saved_index(folder, split)) is not None
    )


def _has_metadata(folder: pathlib.Path) -> bool:
    try:
        return bool(
            split_index_files.class_names(folder) and split_index_files.stored_splits(folder)
        )
    except UserError:  # no such files, or damaged ones
        return False


def _lacks_unions(folder: pathlib.Path, corpus: Corpus) -> bool:
    """Data sets of earlier versions store all splits, and need no such file."""
    there = (folder / split_index_files.UNIONS_NAME).exists()
    return not there and not corpus.unions.keys() <= set(split_index_files.stored_splits(folder))


def wrong_shards(folder: pathlib.Path, split: str, index: ClipIndex) -> list[int]:
    """Numbers of the shards that are missing, or of another size than the index knows."""
    if index.record_bytes is None:
        return []
    ends = np.append(0, np.cumsum(index.record_bytes))[index.shard_offsets]
    found = files.read_sizes(split_index_files.shard_names(folder, split))
    return [
        number
        for number, (size, expected) in enumerate(zip(found, np.diff(ends), strict=True))
        if size != expected
    ]


def mend(
    folder: pathlib.Path,
    corpus: Corpus,
    find_rows: Callable[[], Mapping[str, Sequence[Any]]],
    num_workers: int | None,
) -> None:
    """Makes again what `lacks` found: metadata by the indices, shards from their recordings.

    Raises UserError where that cannot be done: no index is left, or recordings are gone or others.
    """
    if not _has_metadata(folder):
        _write_metadata_again(folder, corpus)
    if _lacks_unions(folder, corpus):
        if (report := preparation_report.read_report(folder)) and "unions" in report:
            files.write_json(folder / split_index_files.UNIONS_NAME, report["unions"])
        else:
            dataset_files.write_unions(folder, corpus, split_index_files.stored_splits(folder))
        print(f"{folder / split_index_files.UNIONS_NAME}: was missing, and is written again")
    rows: Mapping[str, Sequence[Any]] = {}
    for split in split_index_files.stored_splits(folder):
        index = split_index_files.saved_index(folder, split)
        wrong = wrong_shards(folder, split, index) if index else []
        if index is None or not wrong:
            continue
        rows = rows or find_rows()
        # A split that was added later may hold clips that `rows` has in another split.
        every = [row for other in rows.values() for row in other]
        by_id = {row.id: row for row in [*every, *rows.get(split, ())]}
        for number in progress.track(wrong, len(wrong), "shards", f"mend {split}"):
            path = split_index_files.shard_names(folder, split)[number]
            _write_again(path, index, number, by_id, corpus, num_workers)
            print(f"{path}: was missing or cut off, and is made again")


def _write_again(
    path: pathlib.Path,
    index: ClipIndex,
    number: int,
    rows: Mapping[str, Any],
    corpus: Corpus,
    num_workers: int | None,
) -> None:
    """Writes a shard as the index knows it; nothing where its recordings are others now."""
    low, high = index.shard_offsets[number : number + 2]
    wanted = index.ids[low:high].tolist()
    if gone := [clip for clip in wanted if clip not in rows]:
        raise _cannot(path, f"{len(gone)} of its clips have no audio any more, such as {gone[0]!r}")

    def clips() -> Iterator[Any]:
        loaded = ordered_map(corpus.loader(), (rows[clip] for clip in wanted), num_workers)
        for clip, item in zip(range(low, high), loaded, strict=True):
            _compare(path, index, clip, item)
            yield item

    with files.atomic_path(path) as temporary:
        shards.write_shard(temporary, clips(), corpus.has_events)


def _compare(path: pathlib.Path, index: ClipIndex, clip: int, item: Any) -> None:
    if item.clip is None:
        raise _cannot(path, f"{item.problems[-1].file}: {item.problems[-1].kind}")
    digests = index.audio_digests
    if digests is not None and item.clip.description.digest != int(digests[clip]):
        raise _cannot(path, f"the audio of clip {str(index.ids[clip])!r} is another one now")


def _write_metadata_again(folder: pathlib.Path, corpus: Corpus) -> None:
    names = split_index_files.saved_splits(folder)
    found = {split: split_index_files.saved_index(folder, split) for split in names}
    indices = {split: index for split, index in found.items() if index is not None}
    try:
        if not indices or len(indices) < len(found):
            raise ValueError("not all of its indices are there")
        dataset_files.write_metadata(folder, corpus, indices)
    except ValueError as error:
        raise UserError(
            f"{folder}: TFDS's metadata ({split_index_files.INFO_NAME}, features.json) are missing "
            f"or damaged, and cannot be made again ({error}): delete the folder and prepare "
            "the data anew"
        ) from error
    print(f"{folder}: TFDS's metadata were missing or damaged, and are written again")


def _cannot(path: pathlib.Path, why: str) -> UserError:
    return UserError(
        f"{path} is missing or cut off and cannot be made again: {why}. Restore the recordings, "
        "copy the shard from elsewhere, or delete the data set's folder and prepare it anew"
    )
