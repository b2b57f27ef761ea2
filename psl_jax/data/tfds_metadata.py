"""What TFDS writes beside shards: dataset_info.json, features.json and the names of classes.

Read with the standard library: TFDS would import TensorFlow, which takes seconds, or is not there.
"""

import json
import os
import pathlib
from typing import Any, NamedTuple

from psl_jax.audio.segments import RATES, SAMPLE_RATE
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of

INFO_NAME = "dataset_info.json"  # it is written last
FEATURES_NAME = "features.json"
NAMES_NAME = "labels.labels.txt"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class StoredSplit(NamedTuple):
    """The shards of a split, in order, and how many clips each holds."""

    paths: list[pathlib.Path]
    lengths: list[int]


def read_splits(data_dir: str | os.PathLike[str]) -> dict[str, StoredSplit]:
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
        splits = {}
        for split in info["splits"]:
            lengths = [int(length) for length in split["shardLengths"]]
            template = split.get("filepathTemplate") or _TEMPLATE
            values = {
                "DATASET": info["name"],
                "SPLIT": split["name"],
                "FILEFORMAT": file_format,
                "NUM_SHARDS": f"{len(lengths):05d}",
            }
            paths = []
            for number in range(len(lengths)):
                place = f"{number:05d}-of-{len(lengths):05d}"
                name = template.format(**values, SHARD_INDEX=f"{number:05d}", SHARD_X_OF_Y=place)
                paths.append(folder / name)
            splits[split["name"]] = StoredSplit(paths, lengths)
        return splits
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder / INFO_NAME, error) from error


def read_class_names(data_dir: str | os.PathLike[str]) -> list[str]:
    """The classes, in label order. Raises UserError for records of another form than ours."""
    folder = path_of(data_dir)
    _check_is_whole(folder)
    features, names_path = read_features(data_dir), folder / NAMES_NAME
    missing = sorted({"id", "audio", "labels"} - features.keys())
    wrong = f"it lacks {', '.join(missing)}" if missing else _wrong_audio(features["audio"])
    label = features.get("labels", {}).get("sequence", {}).get("feature", {}).get("classLabel")
    if not wrong and (label is None or not names_path.exists()):
        wrong = f"labels have no names: expected {names_path.name}"
    if wrong:
        raise UserError(
            f"{data_dir} is a TFDS data set of another form: {wrong}. Expected the features id "
            "(tfds.features.Text()), labels (a Sequence of ClassLabel with names) and audio, mono "
            "at 16 kHz: tfds.features.Tensor(shape=(None,), dtype=np.int16, "
            'encoding="bytes"); at 32 kHz tfds.features.Audio with sample_rate=32000. '
            f"Found {json.dumps(features)}."
        )
    return [line.strip() for line in names_path.read_text("utf-8").split("\n") if line.strip()]


def read_sample_rate(data_dir: str | os.PathLike[str]) -> int:
    """The rate of the audio, one of `segments.RATES`, of records of our form."""
    kind = read_features(data_dir)["audio"].get("audio", {})
    return int(kind.get("sampleRate", 0)) or SAMPLE_RATE


def read_features(data_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The features of each record by name, as TFDS writes them as JSON. Raises UserError."""
    path = path_of(data_dir) / FEATURES_NAME
    try:
        features = files.read_json(path)["featuresDict"]["features"]
        return {str(name): dict(feature) for name, feature in features.items()}
    except (FileNotFoundError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error


def _check_is_whole(folder: pathlib.Path) -> None:
    """Raises UserError where the file is missing that is written last."""
    if not (folder / INFO_NAME).exists():
        inside: object = "no such folder"
        if folder.is_dir():
            inside = sorted(path.name for path in folder.iterdir())[:5]
        raise UserError(
            f"{folder} is not a prepared data set: expected {INFO_NAME} in it, found {inside}. "
            "Give the folder of the version, such as .../own_data/<settings>/1.0.0."
        )


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: TFDS's metadata cannot be read ({type(error).__name__}: {error}). Give the "
        "command again that prepared the data, which writes them again"
    )


def _wrong_audio(feature: dict[str, Any]) -> str:
    """What is other than expected of the feature `audio`; its records would be noise."""
    kind = feature.get("tensor") or feature.get("audio")
    if kind is None:
        return f"audio is a {str(feature.get('pythonClassName')).rsplit('.', 1)[-1]}"
    if kind.get("lazyDecode"):
        return "audio holds encoded files (lazy_decode)"
    if int(kind.get("sampleRate", SAMPLE_RATE)) not in (0, *RATES):
        return f"audio is at {kind['sampleRate']} Hz"
    if kind.get("dtype") != "int16":
        return f"audio is {kind.get('dtype')}"
    shape = kind.get("shape", {}).get("dimensions", [])
    if len(shape) != 1:
        return f"audio has the shape {shape}"
    encoding = str(kind.get("encoding", "none")).lower()
    return "" if encoding == "bytes" else f"audio is encoded as {encoding!r}"
