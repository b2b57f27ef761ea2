"""The index of a prepared split: where its shards lie and what its clips are, without audio.

What TFDS writes beside the shards is read with the standard library: TFDS would import TensorFlow,
which takes seconds, or is not there.
"""

import contextlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from psl_jax.audio.segments import RATES, SAMPLE_RATE
from psl_jax.data import record_files
from psl_jax.data.clip_index import ClipDescription, ClipIndex, joined, ragged
from psl_jax.runtime import csv_files, files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, local_copy, path_of

INFO_NAME = "dataset_info.json"  # of TFDS; it is written last
_FEATURES_NAME = "features.json"
_NAMES_NAME = "labels.labels.txt"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # of shards' names, unless given

CLASSES_NAME = "classes.csv"
UNIONS_NAME = "unions.json"  # splits that are several stored ones together
# What to do about damage and loss.
REMEDY = (
    "copy it again if it was copied, else delete the data set's folder and prepare the data again"
)
_LISTS = ("events/onset", "events/offset", "events/label", "labels", "unknown_labels")


def load_index(data_dir: str | os.PathLike[str], split: str) -> ClipIndex:
    """The index of `split`, read from `index-{split}.npz` or built with one pass over the shards.

    An index that does not fit the data set's own shard sizes or classes is stale and built again.
    That of a union is made of those of the splits that it joins.

    Raises UserError for no TFDS data set in `data_dir`, no such split, or records of another form.
    """
    if (members := unions(data_dir).get(split)) is not None:
        return joined([load_index(data_dir, member) for member in members], split)
    sizes = shard_sizes(data_dir, split)
    classes = class_names(data_dir)
    path = index_path(data_dir, split)
    damage = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)
    with contextlib.suppress(OSError, *damage):
        saved = ClipIndex.load(path)
        is_of_split = (saved.split, saved.classes) == (split, classes)
        are_same_shards = np.array_equal(saved.shard_sizes, sizes)
        if is_of_split and are_same_shards and saved.record_bytes is not None:
            return saved
    index = _scan(data_dir, split, classes, sizes)
    try:
        index.save(path)
    except OSError as error:  # a read-only data set is no reason to stop
        print(f"could not save {path}: {error}")
    return index


def find_data_dir(folder: str | os.PathLike[str]) -> str:
    """The prepared data set that `folder` is, or the only one below it: an absolute path.

    Raises UserError.
    """
    data_dirs = find_data_dirs(folder)
    if len(data_dirs) > 1:
        names = "".join(f"\n  {path}" for path in data_dirs)
        raise UserError(f"{folder} holds several prepared data sets: give one of{names}")
    return data_dirs[0] if data_dirs else os.fspath(absolute(folder))


def find_data_dirs(folder: str | os.PathLike[str]) -> list[str]:
    """The prepared data set that `folder` is, or all below it: absolute paths.

    Below the `data_dir` of `prepare` lie `<corpus>/<settings>/<version>`.
    """
    root = absolute(folder)
    if (root / INFO_NAME).exists():
        return [os.fspath(root)]
    return sorted(
        os.fspath(path.parent)
        for depth in range(1, 4)
        for path in root.glob("*/" * depth + INFO_NAME)
        if not path.parent.name.startswith("incomplete.")  # left by a killed preparation
    )


def shard_paths(data_dir: str | os.PathLike[str], split: str) -> list[str]:
    """The TFRecord files of `split`, in order. Raises UserError where one is missing."""
    paths = [path for shards in _find_shards(data_dir, split) for path in shards.paths]
    there = files.exist(paths)
    if missing := [path for path, is_there in zip(paths, there, strict=True) if not is_there]:
        raise UserError(
            f"{len(missing)} of {len(paths)} shards of split {split!r} are missing, the first is "
            f"{missing[0]}: {REMEDY}"
        )
    return [os.fspath(path) for path in paths]


def shard_sizes(data_dir: str | os.PathLike[str], split: str) -> np.ndarray:
    """Clips in each shard of `split`, as the data set's metadata say: int64 [shards]."""
    members = _find_shards(data_dir, split)
    return np.array([n for shards in members for n in shards.lengths], dtype=np.int64)


def index_path(data_dir: str | os.PathLike[str], split: str) -> pathlib.Path:
    """Where the index of a stored split lies."""
    return path_of(data_dir) / f"index-{split}.npz"


def splits(data_dir: str | os.PathLike[str]) -> list[str]:
    """Names of the corpus's splits: what a union has besides its first split is not among them."""
    together = unions(data_dir)
    later_members = {name for members in together.values() for name in members[1:]}
    return [*(name for name in stored_splits(data_dir) if name not in later_members), *together]


def stored_splits(data_dir: str | os.PathLike[str]) -> list[str]:
    """Names of the splits that have shards of their own: those that TFDS knows."""
    return list(_read_splits(data_dir))


def unions(data_dir: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Splits that are stored as others, one after the other, such as AudioSet's `full`."""
    path = path_of(data_dir) / UNIONS_NAME
    try:
        stored = files.read_json(path) if path.exists() else {}
        return {str(name): [str(member) for member in members] for name, members in stored.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): {REMEDY}") from error


def class_names(data_dir: str | os.PathLike[str]) -> tuple[str, ...]:
    """The classes of the data set, in label order.

    Raises UserError for records of another form, and where `classes.csv` has other names.
    """
    folder = path_of(data_dir)
    _check_is_whole(folder)
    features, names_path = _read_features(data_dir), folder / _NAMES_NAME
    label = features.get("labels", {}).get("sequence", {}).get("feature", {}).get("classLabel")
    has_names = label is not None and names_path.exists()
    if "id" not in features or not _is_readable(features.get("audio", {})) or not has_names:
        raise UserError(
            f"{data_dir} is a TFDS data set of another form. Expected {names_path.name} and the "
            "features id (tfds.features.Text()), labels (a Sequence of ClassLabel with names) and "
            "audio, mono at 16 kHz: tfds.features.Tensor(shape=(None,), dtype=np.int16, "
            'encoding="bytes"); at 32 kHz tfds.features.Audio with sample_rate=32000. '
            f"Found {json.dumps(features)}."
        )
    lines = names_path.read_text("utf-8").split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    path, listed = folder / CLASSES_NAME, names
    with contextlib.suppress(UserError):  # another list, of somebody else
        if path.exists():
            rows = csv_files.read_rows(path, ("index", "mid", "display_name"))
            listed = tuple(row["display_name"] for _, row in rows)
    if listed != names:
        raise UserError(
            f"{path} and {names_path.name} should name the same classes in the same order, the "
            "latter one a line: one is damaged"
        )
    return names


def build_index(
    split: str,
    classes: Sequence[str],
    clips: Iterable[ClipDescription],
    sizes: Sequence[int] | np.ndarray,
    sample_rate: int = SAMPLE_RATE,
) -> ClipIndex:
    """The index of clips in record order; without a single event it has no strong labels."""
    columns = list(zip(*clips, strict=True)) or [()] * len(ClipDescription._fields)
    ids, lengths, labels, events, digests, record_bytes, audio_starts, unknown = columns
    events = tuple(of_clip or () for of_clip in events)

    def as_array(values: Sequence[Any], dtype: type) -> np.ndarray | None:
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
        audio_digests=as_array(digests, np.uint64),
        record_bytes=as_array(record_bytes, np.int64),
        audio_starts=as_array(audio_starts, np.int64),
        sample_rate=sample_rate,
        **more,
    )


def _scan(
    data_dir: str | os.PathLike[str], split: str, classes: Sequence[str], sizes: np.ndarray
) -> ClipIndex:
    audio = _read_features(data_dir)["audio"].get("audio", {})
    rate = int(audio.get("sampleRate", 0)) or SAMPLE_RATE
    scanned = _scan_records(shard_paths(data_dir, split), 2 * rate // SAMPLE_RATE)
    clips = progress.track(scanned, int(sizes.sum()), "clips", f"index {split}")
    try:
        return build_index(split, classes, clips, sizes, rate)
    except ValueError as error:
        raise UserError(
            f"split {split!r} in {data_dir} does not hold what its metadata say ({error}): {REMEDY}"
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
            raise UserError(f"{path}: damaged clip shard ({error}): {REMEDY}") from error


# --- What TFDS writes -----------------------------------------------------------------------------


class _Shards(NamedTuple):
    """Those of a stored split, in order, and how many clips each holds."""

    paths: list[pathlib.Path]
    lengths: list[int]


def _find_shards(data_dir: str | os.PathLike[str], split: str) -> list[_Shards]:
    """Those of the stored splits that a split consists of, most often itself. Raises UserError."""
    stored = _read_splits(data_dir)
    members = unions(data_dir).get(split, [split])
    if lacking := [member for member in members if member not in stored]:
        raise UserError(
            f"{data_dir} has no split {lacking[0]!r}; its splits are {splits(data_dir)}. Own "
            "recordings are split where there are three groups or more (config.data.group_by, "
            f"such as recording), or by splits.csv or a table {lacking[0]}.csv; unlabelled are "
            "those that no table names, of groups that are not held out. To other data "
            "psl-jax prepare --splits adds it"
        )
    return [stored[member] for member in members]


def _read_splits(data_dir: str | os.PathLike[str]) -> dict[str, _Shards]:
    """The splits of a data set by name. Raises UserError where `data_dir` is none."""
    folder = path_of(data_dir)
    _check_is_whole(folder)
    info = files.read_json(folder / INFO_NAME)
    try:
        file_format = info.get("fileFormat", "tfrecord")
        if file_format != "tfrecord":
            raise UserError(
                f"{data_dir}: its shards are {file_format} files, expected tfrecord. Let TFDS "
                'write it again, with file_format="tfrecord"'
            )
        stored = {}
        for split in info["splits"]:
            lengths = [int(length) for length in split["shardLengths"]]
            template = split.get("filepathTemplate") or _TEMPLATE
            fields = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": file_format}
            fields["NUM_SHARDS"] = count = f"{len(lengths):05d}"
            paths = []
            for number in (f"{number:05d}" for number in range(len(lengths))):
                of_shard = {"SHARD_INDEX": number, "SHARD_X_OF_Y": f"{number}-of-{count}"}
                paths.append(folder / template.format(**fields, **of_shard))
            stored[split["name"]] = _Shards(paths, lengths)
        return stored
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _make_unreadable_error(folder / INFO_NAME, error) from error


def _read_features(data_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The features of each record by name, as TFDS writes them as JSON. Raises UserError."""
    path = path_of(data_dir) / _FEATURES_NAME
    try:
        features = files.read_json(path)["featuresDict"]["features"]
        return {str(name): dict(feature) for name, feature in features.items()}
    except (FileNotFoundError, KeyError, TypeError, AttributeError) as error:
        raise _make_unreadable_error(path, error) from error


def _check_is_whole(folder: pathlib.Path) -> None:
    """Raises UserError where the file is missing that is written last."""
    if not (folder / INFO_NAME).exists():
        inside: object = "no such folder"
        if folder.is_dir():
            inside = sorted(path.name for path in folder.iterdir())[:5]
        raise UserError(
            f"{folder} is not a prepared data set, such as the folder `data` of a run or what "
            f"psl-jax prepare writes: expected {INFO_NAME} in it, found {inside}. Give the folder "
            "of the version, such as .../own_data/<settings>/1.0.0. If this is one that lost the "
            f"file, {REMEDY}"
        )


def _make_unreadable_error(path: pathlib.Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: TFDS's metadata cannot be read ({type(error).__name__}: {error}): {REMEDY}"
    )


def _is_readable(audio: dict[str, Any]) -> bool:
    """Whether the feature `audio` has the form of ours; records of another would be noise."""
    form = audio.get("tensor") or audio.get("audio") or {}
    return (
        not form.get("lazyDecode")
        and int(form.get("sampleRate", SAMPLE_RATE)) in (0, *RATES)
        and form.get("dtype") == "int16"
        and len(form.get("shape", {}).get("dimensions", [])) == 1
        and str(form.get("encoding")).lower() == "bytes"
    )
