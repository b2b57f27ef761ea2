"""Settings, folders and prepared data sets for the tests of the corpora."""

import hashlib
import json
import pathlib

import audio_files
import tensorflow_datasets as tfds

from psl_jax.corpora.corpus import Corpus
from psl_jax.data.settings import DataSettings
from psl_jax.preparing.builder import ClipBuilder


def config(**changes) -> DataSettings:
    data: dict = {
        "corpus": "own_data",
        "data_dir": "",
        "source_dir": "",
        "clip_seconds": 4.0,
        "label_separator": ";",
        "num_workers": 2,
        "full_clips": 40,
        "balanced_clips": 12,
        "eval_clips": 10,
        "seed": 6,
        "missing_labels": 0.5,
    }
    return DataSettings(**(data | changes))


def read_split(data_dir: str, split: str) -> dict[str, dict]:
    """Records by id, as anyone would read them with TFDS."""
    builder = tfds.builder_from_directory(data_dir)
    return {
        record["id"].decode(): record for record in tfds.as_numpy(builder.as_dataset(split=split))
    }


def report_of(data_dir: str) -> dict:
    return json.loads((pathlib.Path(data_dir) / "report.json").read_text())


def problems_of(data_dir: str, file: str) -> list[tuple[str, str]]:
    """(kind, detail) of each problem of a file."""
    return [(p["kind"], p["detail"]) for p in report_of(data_dir)["problems"] if p["file"] == file]


def record_hashes(data_dir: str) -> dict[str, str]:
    shards = pathlib.Path(data_dir).glob("*.tfrecord-*")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}


def small_folder(root: pathlib.Path, labels: str = "dog") -> pathlib.Path:
    names = [f"{i}.wav" for i in range(3)]
    audio_files.write_tones(root, *names, seconds=0.5)
    rows = [(name, labels) for name in names]
    audio_files.write_table(root / "train.csv", "filename,labels", rows)
    return root


def build(corpus: Corpus, root: pathlib.Path) -> str:
    """Prepares a corpus below a folder; returns the data directory."""
    builder = ClipBuilder(corpus, data_dir=root / "data", num_workers=2)
    builder.prepare()
    return builder.data_dir
