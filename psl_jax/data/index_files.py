"""The index of a prepared split: where its shards lie and what its clips are, without audio."""

import functools
import itertools
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipDescription, ClipIndex, joined, ragged
from psl_jax.runtime import csv_files, files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, is_remote, path_of
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

_PARSE_BATCH = 64
INFO_NAME = "dataset_info.json"  # TFDS's; it is written last
CLASSES_NAME = "classes.csv"
_FEATURES_NAME = "features.json"  # of TFDS
UNIONS_NAME = "unions.json"  # splits that are several stored ones together


def load_index(data_dir: str | os.PathLike, split: str) -> ClipIndex:
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
    ):
        return saved
    index = _scan(data_dir, split, classes, sizes)
    try:
        index.save(path)
    except OSError as error:  # a read-only data set is no reason to stop
        print(f"could not save {path}: {error}")
    return index


def find_data_dir(folder: str | os.PathLike) -> str:
    """The prepared data set that `folder` is, or the only one below it: an absolute path.

    Below a folder that was given to `prepare` as its `data_dir` lie
    `<corpus>/<settings>/<version>`. Raises UserError where there is none or several.
    """
    root = absolute(folder)
    if (root / INFO_NAME).exists():
        return os.fspath(root)
    # Without the former the latter tells which folder it is that lacks it.
    found = _folders_with(INFO_NAME, root) or _folders_with(_FEATURES_NAME, root)
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


def shard_paths(data_dir: str | os.PathLike, split: str) -> list[str]:
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


def shard_names(data_dir: str | os.PathLike, split: str) -> list[pathlib.Path]:
    """Where the shards of `split` should be, in order. Raises UserError as `shard_paths`."""
    members = unions(data_dir).get(split, [split])
    infos = [_split_info(data_dir, member) for member in members]
    return [path_of(path) for info in infos for path in info.filepaths]


def index_path(data_dir: str | os.PathLike, split: str) -> pathlib.Path:
    """Where the index of a stored split lies."""
    return path_of(data_dir) / f"index-{split}.npz"


def saved_splits(data_dir: str | os.PathLike) -> list[str]:
    """Splits that have an index on disk."""
    names = sorted(path.name for path in path_of(data_dir).glob("index-*.npz"))
    return [name.removeprefix("index-").removesuffix(".npz") for name in names]


def saved_index(data_dir: str | os.PathLike, split: str) -> ClipIndex | None:
    """The index of a stored split as it is on disk; None where it is not, or is damaged."""
    return _read_saved(index_path(data_dir, split))


def shard_sizes(data_dir: str | os.PathLike, split: str) -> np.ndarray:
    """Clips in each shard of `split`, as the data set's metadata say: int64 [shards]."""
    members = unions(data_dir).get(split, [split])
    lengths = [length for one in members for length in _split_info(data_dir, one).shard_lengths]
    return np.array(lengths, dtype=np.int64)


def splits(data_dir: str | os.PathLike) -> list[str]:
    """Names of the corpus's splits: what a union has besides its first split is not among them."""
    together = unions(data_dir)
    rest = {name for members in together.values() for name in members[1:]}
    return [*(name for name in stored_splits(data_dir) if name not in rest), *together]


def stored_splits(data_dir: str | os.PathLike) -> list[str]:
    """Names of the splits that have shards of their own: those that TFDS knows."""
    return list(_dataset_info(data_dir).splits)


def unions(data_dir: str | os.PathLike) -> dict[str, list[str]]:
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


def class_names(data_dir: str | os.PathLike) -> tuple[str, ...]:
    """The classes of the data set, in label order."""
    features = _dataset_info(data_dir).features
    try:
        names = features["labels"].feature.names
    except (KeyError, AttributeError, TypeError):
        names = None
    missing = {"id", "audio", "labels"} - set(features or ())
    wrong = "" if missing else _wrong_audio(features["audio"])
    if missing or not names or wrong:
        raise UserError(
            f"{data_dir} is a TFDS data set of another form: {wrong or 'features are missing'}. "
            "Expected the features id (tfds.features.Text()), labels (a Sequence of ClassLabel "
            "with names) and audio, mono at 16 kHz: tfds.features.Tensor(shape=(None,), "
            f'dtype=np.int16, encoding="bytes"). Found {features}.'
        )
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


def _wrong_audio(feature: Any) -> str:
    """What is other than expected of the feature `audio`; its records would be noise."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Audio):
        if getattr(feature, "_lazy_decode", False):
            return "audio holds encoded files (lazy_decode)"
        rate = getattr(feature, "sample_rate", None)
        if rate not in (None, SAMPLE_RATE):
            return f"audio is at {rate} Hz"
    elif not isinstance(feature, tfds.features.Tensor):
        return f"audio is a {type(feature).__name__}"
    if feature.np_dtype != np.int16:
        return f"audio is {np.dtype(feature.np_dtype)}"
    if len(feature.shape) != 1:
        return f"audio has the shape {feature.shape}"
    encoding = getattr(getattr(feature, "_encoding", None), "value", None)
    return "" if encoding == "bytes" else f"audio is encoded as {encoding!r}"


def build_index(
    split: str,
    classes: Sequence[str],
    clips: Iterable[ClipDescription],
    sizes: Sequence[int] | np.ndarray,
) -> ClipIndex:
    """The index of clips in record order.

    A split without a single event counts as one without strong labels.
    """
    ids, lengths, labels, events, digests, sizes_on_disk = [], [], [], [], [], []
    for clip in clips:
        ids.append(clip.id)
        lengths.append(clip.num_samples)
        labels.append(clip.labels)
        events.append(clip.events or ())
        digests.append(clip.digest)
        sizes_on_disk.append(clip.record_bytes)
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
    if None not in digests:
        more["audio_digests"] = np.array(digests, np.uint64)
    if None not in sizes_on_disk:
        more["record_bytes"] = np.array(sizes_on_disk, np.int64)
    return ClipIndex(
        split=split,
        classes=tuple(classes),
        ids=np.array(ids, dtype=np.str_),
        num_samples=np.array(lengths, dtype=np.int32),
        label_offsets=label_offsets,
        label_values=label_values,
        shard_sizes=np.asarray(sizes, dtype=np.int64),
        **more,
    )


def _read_saved(path: pathlib.Path) -> ClipIndex | None:
    try:
        return ClipIndex.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # unreadable or of an older form: built again


def _scan(data_dir, split: str, classes: Sequence[str], sizes: np.ndarray) -> ClipIndex:
    paths = shard_paths(data_dir, split)
    has_events = "events" in _dataset_info(data_dir).features
    clips = progress.track(
        _scan_records(paths, has_events), int(sizes.sum()), "clips", f"index {split}"
    )
    try:
        return build_index(split, classes, clips, sizes)
    except ValueError as error:
        raise UserError(
            f"split {split!r} in {data_dir} does not hold what its metadata say ({error}). "
            "Prepare the data again."
        ) from error


def _scan_records(paths: list[str], has_events: bool) -> Iterator[ClipDescription]:
    """Every clip, in order; the audio is not copied out."""
    tf = tensorflow_quietly()
    spec: dict[str, Any] = {
        "id": tf.io.FixedLenFeature([], tf.string),
        "audio": tf.io.FixedLenFeature([], tf.string),
        "labels": tf.io.RaggedFeature(tf.int64),
    }
    if has_events:
        spec |= {f"events/{k}": tf.io.RaggedFeature(tf.float32) for k in ("onset", "offset")}
        spec["events/label"] = tf.io.RaggedFeature(tf.int64)

    def parse(serialized):
        record = tf.io.parse_example(serialized, spec)
        record["bytes"] = tf.strings.length(record.pop("audio"))
        return record

    data = tf.data.TFRecordDataset(paths).batch(_PARSE_BATCH)
    for batch in data.map(parse, num_parallel_calls=2).prefetch(2):
        labels = batch["labels"].to_list()
        events = None
        if has_events:
            columns = [batch[f"events/{k}"].to_list() for k in ("onset", "offset", "label")]
            events = [list(zip(*clip, strict=True)) for clip in zip(*columns, strict=True)]
        for i, (clip_id, size) in enumerate(
            zip(batch["id"].numpy(), batch["bytes"].numpy(), strict=True)
        ):
            clip_events = events[i] if events else None
            yield ClipDescription(clip_id.decode(), int(size) // 2, labels[i], clip_events)


def _dataset_info(data_dir: str | os.PathLike) -> Any:
    path = path_of(data_dir) / INFO_NAME
    if is_remote(path) and path.exists():
        return _remote_info(os.fspath(data_dir), *path.stat())
    return _read_info(data_dir)


@functools.lru_cache(maxsize=8)
def _remote_info(data_dir: str, *_: object) -> Any:
    """Read once as long as it is the same object: each time would take several requests."""
    return _read_info(data_dir)


def _read_info(data_dir: str | os.PathLike) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    folder = path_of(data_dir)
    if not (folder / INFO_NAME).exists():
        inside: object = "no such folder"
        if folder.is_dir():
            inside = sorted(found.name for found in folder.iterdir())[:5]
        raise UserError(
            f"{data_dir} is not a prepared data set: expected {INFO_NAME} in it, found "
            f"{inside}. Give the folder of the version, such as .../own_data/<settings>/1.0.0."
        )
    try:
        return tfds.builder_from_directory(os.fspath(data_dir)).info
    except (ParseError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{os.path.join(data_dir, INFO_NAME)}: TFDS cannot read these metadata: {error}. Give "
            "the command again that prepared the data, which writes them again"
        ) from error


def _split_info(data_dir: str | os.PathLike, split: str) -> Any:
    known = _dataset_info(data_dir).splits
    if split not in known:
        raise UserError(f"{data_dir} has no split {split!r}; its splits are {splits(data_dir)}")
    return known[split]
