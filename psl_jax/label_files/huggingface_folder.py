"""Writes and reads folders that Hugging Face's `datasets` loads, with audio and soft labels.

A row is a segment: `clip`, `segment` (from 0), `onset` and `offset` in seconds, `weak_labels` of
the clip, and `soft_labels`, a float16 list of all classes. The names of the classes are those of
the feature `weak_labels`. Each shard of the data is a file or folder in data/SPLIT:

    00000.parquet               with `audio`, the segment as FLAC; or else
    00000/metadata.parquet      with `file_name`, the clip as FLAC in the same folder

`croissant.json` (http://mlcommons.org/croissant/1.1) tells files, columns and types to other tools,
the head of README.md to the hub.
"""

import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile

from psl_jax.audio.segments import flatten
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.label_files import label_file, table_formats
from psl_jax.label_files.label_file import LabelFile, Options
from psl_jax.label_files.table_formats import KEYS, TableRows
from psl_jax.runtime import files, progress
from psl_jax.runtime.errors import UserError

_METADATA = "metadata.parquet"
_README_FILE, _CROISSANT = "README.md", "croissant.json"
_GROUP_CLIPS = 64  # whose segments become a row group: their audio is in memory


def open_folder(path: pathlib.Path, options: Options) -> LabelFile:
    """Opens the Parquet files of a folder; those of other splits are read, too."""
    import pyarrow.parquet

    paths = sorted(path.rglob("*.parquet"))
    if not paths:
        raise UserError(f"{path}: no Parquet file in this folder or below it")
    classes: list[str] = []
    for file_path in paths:
        with label_file.plain_errors(file_path):
            schema = pyarrow.parquet.read_schema(file_path)
            if missing := {*KEYS, "soft_labels"} - set(schema.names):
                raise UserError(f"{file_path}: no column {', '.join(sorted(missing))}")
            described = json.loads((schema.metadata or {})[b"huggingface"])
            file_classes = described["info"]["features"]["weak_labels"]["feature"]["names"]
        classes = classes or file_classes
        if file_classes != classes:
            raise UserError(
                f"{file_path} has other classes than {paths[0]}: put each into a folder of its "
                "own, and read them one by one"
            )

    def read_rows(class_numbers: Sequence[int]) -> Iterator[TableRows]:
        for file_path in paths:
            with label_file.plain_errors(file_path):
                file = pyarrow.parquet.ParquetFile(file_path)
                for place, batch in table_formats.iterate_batches(file, [*KEYS, "soft_labels"]):
                    keys = {n: batch.column(n).to_numpy(zero_copy_only=False) for n in KEYS}
                    values = np.asarray(batch.column("soft_labels").flatten(), np.float32)
                    place = f"{file_path.relative_to(path)}, {place}"
                    yield place, keys, values.reshape(batch.num_rows, len(classes))

    return table_formats.open_table(path, options, [*KEYS, *classes], read_rows, paths)


def write(
    path: pathlib.Path, labels: SoftLabels, source: Source, *, has_audio: bool
) -> list[pathlib.Path]:
    """Writes a split of `source`. Whole shards that are there are kept: the same command goes on.

    has_audio: whether rows hold their audio; else they refer to files.
    """
    import pyarrow.parquet

    index = labels.index
    split = index.split.replace("+", "_")
    schema = _make_schema(labels, has_audio=has_audio)
    shards = [number for number, size in enumerate(index.shard_sizes) if size]
    ending = ".parquet" if has_audio else f"/{_METADATA}"
    paths = [path / "data" / split / f"{shard:05d}{ending}" for shard in shards]
    if (path / _README_FILE).exists() and not (path / _CROISSANT).exists():
        raise UserError(
            f"{path / _README_FILE} is of something else, and would be overwritten: give another "
            "--out, or move the file away"
        )
    for other in (path / "data").rglob("*.parquet"):
        with label_file.plain_errors(other):
            other_schema = pyarrow.parquet.read_schema(other)
            is_same = other_schema.equals(schema) and (  # equal columns and features: class names
                other_schema.metadata[b"huggingface"] == schema.metadata[b"huggingface"]
            )
        if not is_same or (other.is_relative_to(path / "data" / split) and other not in paths):
            raise UserError(f"{other} holds other labels: give another --out, or delete {path}")
    for shard, target in progress.track(
        list(zip(shards, paths, strict=True)), len(shards), "shard", "export"
    ):
        if target.exists() and pyarrow.parquet.read_schema(target).metadata == schema.metadata:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            files.atomic_path(target) as temporary,
            pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            folder = None if has_audio else target.parent
            for columns in _write_clips(labels, shard, source, folder):
                writer.write_table(pyarrow.Table.from_pydict(columns, schema=schema))
    return [*_describe_folder(path, index, has_audio=has_audio), *paths]


def _make_schema(labels: SoftLabels, *, has_audio: bool) -> Any:
    """Makes the schema of a Parquet file, with the features of `datasets` in its metadata."""
    import pyarrow as pa

    index = labels.index

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    def sequence(feature: dict[str, Any], length: int = -1) -> dict[str, Any]:
        return {"feature": feature, "length": length, "_type": "Sequence"}

    # The type and the feature of each column.
    columns: dict[str, tuple[Any, dict[str, Any]]] = {
        "clip": (pa.string(), value("string")),
        "segment": (pa.int32(), value("int32")),
        "onset": (pa.float64(), value("float64")),
        "offset": (pa.float64(), value("float64")),
    }
    if has_audio:
        audio = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns["audio"] = audio, {"sampling_rate": index.sample_rate, "_type": "Audio"}
    else:
        columns["file_name"] = pa.string(), value("string")
    names = {"names": list(index.classes), "_type": "ClassLabel"}
    columns["weak_labels"] = pa.list_(pa.int64()), sequence(names)
    num_classes = index.num_classes
    soft_labels = sequence(value("float16"), num_classes)
    columns["soft_labels"] = pa.list_(pa.float16(), num_classes), soft_labels
    features = {name: feature for name, (_, feature) in columns.items()}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}),
        "psl_jax": files.json_digest(labels.manifest | {"weak": index.labels_sha256}),
    }
    return pa.schema({name: kind for name, (kind, _) in columns.items()}, metadata)


def _write_clips(
    labels: SoftLabels, shard: int, source: Source, folder: pathlib.Path | None
) -> Iterator[dict[str, Any]]:
    """Yields the columns of some segments at a time.

    folder: gets the clips that the segments refer to; None: rows hold their audio.
    """
    import pyarrow as pa

    index, segmentation = labels.index, labels.segmentation
    first_clip, end = index.shard_offsets[shard : shard + 2].tolist()
    _, values, counts = labels.read_shard(shard)
    for first in range(0, end - first_clip, _GROUP_CLIPS):
        clips = np.arange(first, min(first + _GROUP_CLIPS, end - first_clip))  # in the shard
        is_inside = np.arange(values.shape[1]) < counts[clips, None]
        rows, segments = np.nonzero(is_inside)
        onsets, offsets = segmentation.compute_times(segments)
        ids = index.ids[first_clip + clips]
        audio: list[Any] = []
        sounds = source.read_whole(first_clip + clips)
        for clip, clip_id, samples in zip(clips.tolist(), ids.tolist(), sounds, strict=True):
            if folder is None:
                starts = segmentation.hop_samples * np.arange(counts[clip])
                parts = [samples[start:][: segmentation.segment_samples] for start in starts]
                audio += [{"bytes": _encode(part), "path": f"{clip_id}.flac"} for part in parts]
            else:
                with files.atomic_open(folder / f"{clip:05d}.flac", "wb") as file:
                    file.write(_encode(samples))
                audio += [f"{clip:05d}.flac"] * int(counts[clip])
        weak = [np.flatnonzero(row > 0).tolist() for row in index.weak_labels(first_clip + clips)]
        yield {
            "clip": ids[rows].tolist(),
            "segment": segments.astype(np.int32),
            "onset": onsets,
            "offset": offsets,
            "audio" if folder is None else "file_name": audio,
            "weak_labels": [weak[row] for row in rows],
            "soft_labels": pa.FixedSizeListArray.from_arrays(
                pa.array(values[clips][is_inside].reshape(-1)), index.num_classes
            ),
        }


def _encode(samples: np.ndarray) -> bytes:
    """Encodes int16 audio as FLAC."""
    file = io.BytesIO()
    soundfile.write(file, *flatten(samples), format="FLAC", subtype="PCM_16")
    return file.getvalue()


# --- Descriptions for the hub and for other tools -------------------------------------------------

_OF_CROISSANT = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field"),
    *("fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset"),
    *("jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
} | {name: f"cr:{name}" for name in _OF_CROISSANT}

_README = """---
task_categories:
- audio-classification
configs:
- config_name: default
  data_files:
{data_files}
---

# {name}

{description}

`soft_labels` has a probability for each class; `features["weak_labels"].feature.names` are the
classes. {audio} Written by `psl-jax labels export --format=hf`, which writes this file anew: add a
licence, and where the audio comes from.
"""


def _describe_folder(
    folder: pathlib.Path, index: ClipIndex, *, has_audio: bool
) -> list[pathlib.Path]:
    """Writes README.md and croissant.json, for all splits that lie in the folder."""
    splits = sorted(path.name for path in (folder / "data").iterdir() if path.is_dir())
    description = (
        f"Segments of audio at {index.sample_rate} Hz with soft labels for {index.num_classes} "
        "classes."
    )
    audio = (
        "`audio` is the segment."
        if has_audio
        else "`audio` is the clip; the segment lies from `onset` to `offset` seconds in it."
    )
    readme = _README.format(
        name=folder.name,
        description=description,
        audio=audio,
        data_files="\n".join(f"  - split: {name}\n    path: data/{name}/**" for name in splits),
    )
    croissant = {"name": folder.name, "description": description}
    croissant |= _describe_dataset(splits, index.classes, has_audio=has_audio)
    # The last is README.md: one without the other is not of an export.
    files.write_json(folder / _CROISSANT, croissant)
    with files.atomic_open(folder / _README_FILE, encoding="utf-8") as file:
        file.write(readme)
    return [folder / _README_FILE, folder / _CROISSANT]


def _describe_dataset(
    splits: Sequence[str], classes: Sequence[str], *, has_audio: bool
) -> dict[str, Any]:
    """The nodes of croissant.json: files and rows of each split, and the classes."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "distribution": [
            _make_node(
                "cr:FileObject",
                "data",
                contentUrl="data",
                encodingFormat="application/x-directory",
                sha256="of a folder, which has none",
            ),
            *(
                _make_node(
                    "cr:FileSet",
                    f"{name}-files",
                    containedIn={"@id": "data"},
                    encodingFormat="application/x-parquet",
                    includes=f"{name}/*.parquet" if has_audio else f"{name}/*/*.parquet",
                )
                for name in splits
            ),
        ],
        "recordSet": [
            _make_node(
                "cr:RecordSet",
                "classes",
                key={"@id": "classes/number"},
                field=[
                    _make_node("cr:Field", "classes/number", dataType="sc:Integer"),
                    _make_node("cr:Field", "classes/name", dataType="sc:Text"),
                ],
                data=[
                    {"classes/number": number, "classes/name": name}
                    for number, name in enumerate(classes)
                ],
            ),
            *(_describe_segments(name, len(classes), has_audio=has_audio) for name in splits),
        ],
    }


def _describe_segments(split: str, num_classes: int, *, has_audio: bool) -> dict[str, Any]:
    """Describes the rows of a split, one a segment."""

    def describe(column: str, data_type: str, **more: Any) -> dict[str, Any]:
        name = f"{split}/{column}"
        source = {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}}
        if column == "audio":
            source["transform"] = {"jsonPath": "bytes"}
        return _make_node("cr:Field", name, dataType=data_type, source=source, **more)

    weak = {"arrayShape": "-1", "references": {"field": {"@id": "classes/number"}}}
    return _make_node(
        "cr:RecordSet",
        split,
        description="A row is a segment of a clip; onset and offset are seconds in the clip.",
        field=[
            describe("clip", "sc:Text"),
            describe("segment", "cr:Int32"),
            describe("onset", "cr:Float64"),
            describe("offset", "cr:Float64"),
            describe("audio", "sc:AudioObject") if has_audio else describe("file_name", "sc:Text"),
            describe("weak_labels", "sc:Integer", isArray=True, **weak),
            describe("soft_labels", "cr:Float16", isArray=True, arrayShape=f"{num_classes}"),
        ],
    )


def _make_node(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """Makes a node of croissant.json."""
    return {"@type": kind, "@id": name, "name": name} | more
