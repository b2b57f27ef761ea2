"""Repairs a prepared data set that has lost shards or TFDS's files."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.tfds_metadata import INFO_NAME
from psl_jax.preparing import dataset_files, preparation_report, shards
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map


def is_incomplete(folder: pathlib.Path, corpus: Corpus) -> bool:
    """Tells whether a prepared data set lacks metadata or a shard, or a shard is cut off."""
    if not _has_metadata(folder) or _lacks_unions(folder, corpus):
        return True
    return any(
        find_wrong_shards(folder, split, index)
        for split in split_index_files.stored_splits(folder)
        if (index := split_index_files.saved_index(folder, split)) is not None
    )


def _has_metadata(folder: pathlib.Path) -> bool:
    try:
        split_index_files.class_names(folder)
        return bool(split_index_files.stored_splits(folder))
    except UserError:  # no such files, or damaged ones
        return False


def _lacks_unions(folder: pathlib.Path, corpus: Corpus) -> bool:
    """Tells whether unions are missing; earlier versions stored all splits and needed none."""
    has_unions = (folder / split_index_files.UNIONS_NAME).exists()
    return not has_unions and not corpus.unions.keys() <= set(
        split_index_files.stored_splits(folder)
    )


def find_wrong_shards(folder: pathlib.Path, split: str, index: ClipIndex) -> list[int]:
    """Lists the numbers of shards that are missing, or have another size than in the index."""
    if index.record_bytes is None:
        return []
    ends = np.append(0, np.cumsum(index.record_bytes))[index.shard_offsets]
    sizes = files.read_sizes(split_index_files.shard_names(folder, split))
    return [
        number
        for number, (size, expected) in enumerate(zip(sizes, np.diff(ends), strict=True))
        if size != expected
    ]


def repair(
    folder: pathlib.Path,
    corpus: Corpus,
    *,
    find_rows: Callable[[], Mapping[str, Sequence[Any]]],
    num_workers: int | None,
) -> None:
    """Makes metadata again from the indices, and shards from their recordings.

    Raises UserError where no index is left, or recordings are gone or have changed.
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
        wrong_numbers = find_wrong_shards(folder, split, index) if index else []
        if index is None or not wrong_numbers:
            continue
        rows = rows or find_rows()
        # A split that was added later may hold clips that `rows` has in another split.
        all_rows = [row for split_rows in rows.values() for row in split_rows]
        rows_by_id = {row.id: row for row in [*all_rows, *rows.get(split, ())]}
        for number in progress.track(wrong_numbers, len(wrong_numbers), "shards", f"mend {split}"):
            path = split_index_files.shard_names(folder, split)[number]
            _write_again(
                path, index, number=number, rows=rows_by_id, corpus=corpus, num_workers=num_workers
            )
            print(f"{path}: was missing or cut off, and is made again")


def _write_again(
    path: pathlib.Path,
    index: ClipIndex,
    *,
    number: int,
    rows: Mapping[str, Any],
    corpus: Corpus,
    num_workers: int | None,
) -> None:
    """Writes a shard as the index describes it, or nothing where its recordings have changed."""
    first_clip, end_clip = index.shard_offsets[number : number + 2]
    clip_ids = index.ids[first_clip:end_clip].tolist()
    if missing_clips := [clip for clip in clip_ids if clip not in rows]:
        raise _make_error(
            path,
            f"{len(missing_clips)} of its clips have no audio any more, such as "
            f"{missing_clips[0]!r}",
        )

    def load_clips() -> Iterator[Any]:
        loaded = ordered_map(corpus.clip_loader, (rows[clip] for clip in clip_ids), num_workers)
        for clip, item in zip(range(first_clip, end_clip), loaded, strict=True):
            _check_same_audio(path, index, clip=clip, item=item)
            yield item

    with files.atomic_path(path) as temporary:
        shards.write_shard(temporary, load_clips(), corpus.has_events)


def _check_same_audio(path: pathlib.Path, index: ClipIndex, *, clip: int, item: Any) -> None:
    if item.clip is None:
        raise _make_error(path, f"{item.problems[-1].file}: {item.problems[-1].kind}")
    digests = index.audio_digests
    if digests is not None and item.clip.description.digest != int(digests[clip]):
        raise _make_error(path, f"the audio of clip {str(index.ids[clip])!r} is another one now")


def _write_metadata_again(folder: pathlib.Path, corpus: Corpus) -> None:
    names = split_index_files.saved_splits(folder)
    indices_by_split = {split: split_index_files.saved_index(folder, split) for split in names}
    indices = {split: index for split, index in indices_by_split.items() if index is not None}
    try:
        if not indices or len(indices) < len(indices_by_split):
            raise ValueError("not all of its indices are there")
        dataset_files.write_metadata(folder, corpus, indices)
    except ValueError as error:
        raise UserError(
            f"{folder}: TFDS's metadata ({INFO_NAME}, features.json) are missing "
            f"or damaged, and cannot be made again ({error}): delete the folder and prepare "
            "the data anew"
        ) from error
    print(f"{folder}: TFDS's metadata were missing or damaged, and are written again")


def _make_error(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{path} is missing or cut off and cannot be made again: {reason}. Restore the recordings, "
        "copy the shard from elsewhere, or delete the data set's folder and prepare it anew"
    )
