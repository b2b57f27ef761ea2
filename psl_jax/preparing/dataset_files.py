"""Writes the files that make shards a data set: classes, unions of splits, and TFDS's own files."""

import logging
import pathlib
import tempfile
from collections.abc import Container, Mapping

from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.tfds_metadata import INFO_NAME
from psl_jax.preparing.shards import make_features
from psl_jax.runtime import files
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly


def make_shard_path(
    folder: pathlib.Path, name: str, *, split: str, number: int, count: int
) -> pathlib.Path:
    """Makes the path where TFDS looks for shard `number` of `count` of a split."""
    return folder / f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write_classes(folder: pathlib.Path, corpus: Corpus) -> None:
    rows = zip(range(len(corpus.classes)), corpus.class_ids, corpus.classes, strict=True)
    columns = ("index", "mid", "display_name")
    files.write_csv(folder / split_index_files.CLASSES_NAME, columns, rows)


def write_unions(
    folder: pathlib.Path, corpus: Corpus, stored: Container[str]
) -> dict[str, list[str]]:
    """Writes the stored splits that each union consists of; returns those of `corpus`."""
    unions = {
        split: [name for name in names if name in stored]
        for split, names in corpus.unions.items()
        if split not in stored
    }
    if unions:
        all_unions = split_index_files.unions(folder) | unions
        files.write_json(folder / split_index_files.UNIONS_NAME, all_unions)
    return unions


def write_metadata(folder: pathlib.Path, corpus: Corpus, indices: Mapping[str, ClipIndex]) -> None:
    """Writes TFDS's files; `dataset_info.json`, which makes the folder a data set, comes last.

    TFDS writes them to a temporary folder: it knows no s3://, and its files are not whole at once.
    """
    tensorflow_quietly()  # before TFDS imports it
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_is_no_deprecation)  # of what TFDS itself uses
    with tempfile.TemporaryDirectory(prefix="psl_jax-") as temporary:
        local = pathlib.Path(temporary)
        template = tfds.core.ShardedFileTemplate(
            dataset_name=corpus.name, data_dir=temporary, filetype_suffix="tfrecord"
        )
        infos = []
        for split, index in indices.items():
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=index.shard_sizes.tolist(),
                    num_bytes=0 if index.record_bytes is None else int(index.record_bytes.sum()),
                    filename_template=template.replace(split=split),
                )
            )
            count = len(index.shard_sizes)
            for number in range(count):  # TFDS looks for their names only
                make_shard_path(local, corpus.name, split=split, number=number, count=count).touch()
        shards = set(local.iterdir())
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=make_features(
                corpus.classes,
                events=corpus.has_events,
                sample_rate=corpus.sample_rate,
                unknown=any(index.has_unknown for index in indices.values()),
            ),
            split_infos=infos,
            filename_template=template,
            check_data=False,
            description=f"{corpus.name}: clips at {corpus.sample_rate // 1000} kHz with weak "
            "labels; made by psl_jax.",
            disable_shuffling=True,
        )
        metadata_files = set(local.iterdir()) - shards
        for path in sorted(metadata_files, key=lambda path: path.name == INFO_NAME):
            files.copy(path, folder / path.name)


def _is_no_deprecation(record: logging.LogRecord) -> bool:
    return ".dtype` is deprecated" not in record.getMessage()
