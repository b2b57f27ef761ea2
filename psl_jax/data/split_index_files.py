"""The index of a prepared split: where its shards lie and what its clips are, without audio."""

import itertools
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data import record_files, tfds_metadata
from psl_jax.data.clip_index import ClipDescription, ClipIndex, joined, ragged
from psl_jax.data.tfds_metadata import FEATURES_NAME, INFO_NAME
from psl_jax.runtime import csv_files, files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, local_copy, path_of

CLASSES_NAME = "classes.csv"
UNIONS_NAME = "unions.json"  # splits that are several stored ones together
_LISTS = ("events/onset", "events/offset", "events/label", "labels", "unknown_labels")


def load_index(data_dir: str | os.PathLike[str], split: str) -> ClipIndex:
    """The index of `split`, read from `index-{split}.npz` or built with one pass over the shards.

    An index that does not fit the data set's own shard sizes or classes is stale and built again.
    That of a union is made of those of the splits that it joins.

    Raises:
      UserError: no TFDS data set in `data_dir`, no such split, or records of another form.
    """
    if (members := unions(data_dir).get(split)) is not None:
        return joined([load_index(data_dir, member) for member in members], split)
    sizes = shard_sizes(data_dir, split)
    classes = class_names(data_dir)
    path = index_path(data_dir, split)
    saved = _read_saved(path)
    if (
        saved is not None
        and saved.split == split
        and np.array_equal(saved.shard_sizes, sizes)
        and saved.classes == classes
        and saved.record_bytes is not None
    ):
        return saved
    index = _scan(data_dir, split, classes, sizes)
    try:
        index.save(path)
    except OSError as error:  # a read-only data set is no reason to stop
        print(f"could not save {path}: {error}")
    return index


def find_data_dir(folder: str | os.PathLike[str]) -> str:
    """The prepared data set that `folder` is, or the only one below it: an absolute path.

    Below a folder that was given to `prepare` as its `data_dir` lie
    `<corpus>/<settings>/<version>`. Raises UserError where there is none or several.
    """
    root = absolute(folder)
    if (root / INFO_NAME).exists():
        return os.fspath(root)
    # Without the former the latter tells which folder it is that lacks it.
    found = _folders_with(INFO_NAME, root) or _folders_with(FEATURES_NAME, root)
    if len(found) > 1:
        names = "".join(f"\n  {path}" for path in found)
        raise UserError(f"{folder} holds several prepared data sets: give one of{names}")
    return os.fspath(found[0] if found else root)


def _folders_with(name: str, root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path.parent
        for depth in range(1, 4)
        for path in root.glob("*/" * depth + name)
        if not path.parent.name.startswith("incomplete.")  # left by a killed preparation
    )


def shard_paths(data_dir: str | os.PathLike[str], split: str) -> list[str]:
    """The TFRecord files of `split`, in order.

    Raises:
      UserError: no such data set or split, or a shard is missing on disk.
    """
    names = shard_names(data_dir, split)
    paths, there = [os.fspath(path) for path in names], files.exist(names)
    if missing := [path for path, is_there in zip(paths, there, strict=True) if not is_there]:
        raise UserError(
            f"{len(missing)} of {len(paths)} shards of split {split!r} are missing, the first is "
            f"{missing[0]}. Prepare the data again: the same command makes only what is missing."
        )
    return paths


def shard_names(data_dir: str | os.PathLike[str], split: str) -> list[pathlib.Path]:
    """Where the shards of `split` should be, in order. Raises UserError as `shard_paths`."""
    members = unions(data_dir).get(split, [split])
    return [path for member in members for path in _stored_split(data_dir, member).paths]


def index_path(data_dir: str | os.PathLike[str], split: str) -> pathlib.Path:
    """Where the index of a stored split lies."""
    return path_of(data_dir) / f"index-{split}.npz"


def saved_splits(data_dir: str | os.PathLike[str]) -> list[str]:
    """Splits that have an index on disk."""
    names = sorted(path.name for path in path_of(data_dir).glob("index-*.npz"))
    return [name.removeprefix("index-").removesuffix(".npz") for name in names]


def saved_index(data_dir: str | os.PathLike[str], split: str) -> ClipIndex | None:
    """The index of a stored split as it is on disk; None where it is not, or is damaged."""
    return _read_saved(index_path(data_dir, split))


def shard_sizes(data_dir: str | os.PathLike[str], split: str) -> np.ndarray:
    """Clips in each shard of `split`, as the data set's metadata say: int64 [shards]."""
    members = unions(data_dir).get(split, [split])
    lengths = [n for member in members for n in _stored_split(data_dir, member).lengths]
    return np.array(lengths, dtype=np.int64)


def splits(data_dir: str | os.PathLike[str]) -> list[str]:
    """Names of the corpus's splits: what a union has besides its first split is not among them."""
    together = unions(data_dir)
    rest = {name for members in together.values() for name in members[1:]}
    return [*(name for name in stored_splits(data_dir) if name not in rest), *together]


def stored_splits(data_dir: str | os.PathLike[str]) -> list[str]:
    """Names of the splits that have shards of their own: those that TFDS knows."""
    return list(tfds_metadata.read_splits(data_dir))


def unions(data_dir: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Splits that are stored as others, one after the other: name -> stored splits.

    AudioSet's `full` holds `balanced`, for instance, which is on disk but once.
    """
    path = path_of(data_dir) / UNIONS_NAME
    try:
        found = files.read_json(path) if path.exists() else {}
        return {str(name): [str(member) for member in members] for name, members in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): prepare the data again, which writes it anew"
        ) from error


def class_names(data_dir: str | os.PathLike[str]) -> tuple[str, ...]:
    """The classes of the data set, in label order."""
    names = tfds_metadata.read_class_names(data_dir)
    _check_names(path_of(data_dir), names)
    return tuple(names)


def _check_names(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Raises UserError where the list that `prepare` wrote beside TFDS's own has other names."""
    path = folder / CLASSES_NAME
    try:
        columns = ("index", "mid", "display_name")
        rows = csv_files.read_rows(path, columns) if path.exists() else iter(())
        listed = [row["display_name"] for _, row in rows]
    except UserError:  # another list, of somebody else
        return
    pairs = itertools.zip_longest(listed, names) if listed else iter(())
    if other := next((pair for pair in pairs if pair[0] != pair[1]), None):
        raise UserError(
            f"{path} and {folder / 'labels.labels.txt'} should name the same classes, and have "
            f"{other[0]!r} and {other[1]!r}: one is damaged. The latter is a name a line, in the "
            "order of the former"
        )


def build_index(
    split: str,
    classes: Sequence[str],
    clips: Iterable[ClipDescription],
    sizes: Sequence[int] | np.ndarray,
    sample_rate: int = SAMPLE_RATE,
) -> ClipIndex:
    """The index of clips in record order.

    A split without a single event counts as one without strong labels.
    """
    columns = list(zip(*clips, strict=True)) or [()] * len(ClipDescription._fields)
    ids, lengths, labels, events, digests, record_bytes, audio_starts, unknown = columns
    events = tuple(of_clip or () for of_clip in events)

    def known(values: Sequence[Any], dtype: type) -> np.ndarray | None:
        return None if None in values else np.array(values, dtype)

    label_offsets, label_values = ragged(labels)
    more: dict[str, Any] = {}
    if any(events):
        offsets, values = ragged([[label for _, _, label in clip] for clip in events])
        times = [(onset, offset) for clip in events for onset, offset, _ in clip]
        more = {
            "event_offsets": offsets,
            "event_values": values,
            "event_times": np.array(times, np.float32).reshape(-1, 2),
        }
    if any(unknown):
        more["unknown_offsets"], more["unknown_values"] = ragged(unknown)
    return ClipIndex(
        split=split,
        classes=tuple(classes),
        ids=np.array(ids, dtype=np.str_),
        num_samples=np.array(lengths, dtype=np.int32),
        label_offsets=label_offsets,
        label_values=label_values,
        shard_sizes=np.asarray(sizes, dtype=np.int64),
        audio_digests=known(digests, np.uint64),
        record_bytes=known(record_bytes, np.int64),
        audio_starts=known(audio_starts, np.int64),
        sample_rate=sample_rate,
        **more,
    )


def _read_saved(path: pathlib.Path) -> ClipIndex | None:
    try:
        return ClipIndex.load(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # missing, unreadable or of an older form


def _scan(
    data_dir: str | os.PathLike[str], split: str, classes: Sequence[str], sizes: np.ndarray
) -> ClipIndex:
    rate = tfds_metadata.read_sample_rate(data_dir)
    scanned = _scan_records(shard_paths(data_dir, split), 2 * rate // SAMPLE_RATE)
    clips = progress.track(scanned, int(sizes.sum()), "clips", f"index {split}")
    try:
        return build_index(split, classes, clips, sizes, rate)
    except ValueError as error:
        raise UserError(
            f"split {split!r} in {data_dir} does not hold what its metadata say ({error}). "
            "Prepare the data again."
        ) from error


def _scan_records(paths: list[str], bytes_per_tick: int) -> Iterator[ClipDescription]:
    """Every clip, in order."""
    for path in paths:
        try:
            with local_copy(path) as local:
                for record in record_files.read_records(local):
                    features = record_files.parse_example(record)
                    clip_id, audio = record_files.single_values(features, ("id", "audio"))
                    onsets, offsets, classes, labels, unknown = (
                        features[name].values if name in features else [] for name in _LISTS
                    )
                    yield ClipDescription(
                        bytes(clip_id).decode(),
                        len(audio) // bytes_per_tick,
                        labels,
                        list(zip(onsets, offsets, classes, strict=True)),
                        record_bytes=len(record) + record_files.FRAMING_BYTES,
                        audio_start=features["audio"].start + record_files.HEADER_BYTES,
                        unknown=unknown,
                    )
        except record_files.DamagedRecordError as error:
            raise UserError(
                f"{path}: damaged clip shard ({error}); prepare the data again"
            ) from error


def _stored_split(data_dir: str | os.PathLike[str], split: str) -> tfds_metadata.StoredSplit:
    stored = tfds_metadata.read_splits(data_dir)
    if split not in stored:
        raise UserError(
            f"{data_dir} has no split {split!r}; its splits are {splits(data_dir)}. Own recordings "
            f"have it by a table {split}.csv; to other data psl-jax prepare --splits adds it"
        )
    return stored[split]
