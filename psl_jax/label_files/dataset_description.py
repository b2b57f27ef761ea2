"""Describes a folder of segments with soft labels: README.md for the hub, and croissant.json.

Croissant (http://mlcommons.org/croissant/1.1) tells files, columns and types to other tools.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime import files

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

```python
from datasets import load_dataset

segments = load_dataset("{name}", split="{split}")
classes = segments.features["weak_labels"].feature.names
```

`soft_labels` has a probability for each class. {audio} Written by `psl-jax labels export
--format=hf`, which writes this file anew: add a licence, and where the audio comes from.
"""


def write(folder: pathlib.Path, index: ClipIndex, *, embeds: bool) -> list[pathlib.Path]:
    """Writes both files, for all splits that lie in the folder.

    embeds: whether rows hold their audio; else they refer to files.
    """
    splits = sorted(path.name for path in (folder / "data").iterdir() if path.is_dir())
    description = (
        f"Segments of audio at {index.sample_rate} Hz with soft labels for {index.num_classes} "
        "classes."
    )
    audio = (
        "`audio` is the segment."
        if embeds
        else "`audio` is the clip; the segment lies from `onset` to `offset` seconds in it."
    )
    readme = _README.format(
        name=folder.name,
        description=description,
        split=splits[0],
        audio=audio,
        data_files="\n".join(f"  - split: {name}\n    path: data/{name}/**" for name in splits),
    )
    with files.atomic_open(folder / "README.md", encoding="utf-8") as file:
        file.write(readme)
    croissant = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": folder.name,
        "description": description,
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "data",
                "name": "data",
                "contentUrl": "data",
                "encodingFormat": "application/x-directory",
                "sha256": "of a folder, which has none",
            },
            *(_describe_files(name, embeds) for name in splits),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "classes",
                "name": "classes",
                "key": {"@id": "classes/number"},
                "field": [
                    _describe_field("classes/number", "sc:Integer"),
                    _describe_field("classes/name", "sc:Text"),
                ],
                "data": [
                    {"classes/number": number, "classes/name": name}
                    for number, name in enumerate(index.classes)
                ],
            },
            *(_describe_segments(name, index.classes, embeds=embeds) for name in splits),
        ],
    }
    files.write_json(folder / "croissant.json", croissant)
    return [folder / "README.md", folder / "croissant.json"]


def _describe_files(split: str, embeds: bool) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-files",
        "name": f"{split}-files",
        "containedIn": {"@id": "data"},
        "encodingFormat": "application/x-parquet",
        "includes": f"{split}/*.parquet" if embeds else f"{split}/*/*.parquet",
    }


def _describe_segments(split: str, classes: Sequence[str], *, embeds: bool) -> dict[str, Any]:
    """Describes the rows of a split, one a segment."""

    def describe(column: str, data_type: str, **more: Any) -> dict[str, Any]:
        source = {"fileSet": {"@id": f"{split}-files"}, "extract": {"column": column}}
        if column == "audio":
            source["transform"] = {"jsonPath": "bytes"}
        return _describe_field(f"{split}/{column}", data_type, source=source, **more)

    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": "A row is a segment of a clip; onset and offset are seconds in the clip.",
        "field": [
            describe("clip", "sc:Text"),
            describe("segment", "cr:Int32"),
            describe("onset", "cr:Float64"),
            describe("offset", "cr:Float64"),
            describe("audio", "sc:AudioObject") if embeds else describe("file_name", "sc:Text"),
            describe(
                "weak_labels",
                "sc:Integer",
                isArray=True,
                arrayShape="-1",
                references={"field": {"@id": "classes/number"}},
            ),
            describe("soft_labels", "cr:Float16", isArray=True, arrayShape=f"{len(classes)}"),
        ],
    }


def _describe_field(name: str, data_type: str, **more: Any) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": data_type} | more
