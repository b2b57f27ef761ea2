"""What makes shards a data set: names, classes, unions of splits, and TFDS's own files, last."""

import os
import pathlib
import tempfile
from collections.abc import Container, Mapping

from psl_jax.corpora.corpus import Corpus
from psl_jax.data import index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.tfds_metadata import INFO_NAME
from psl_jax.preparing import clip_records
from psl_jax.runtime import files
from psl_jax.runtime.paths import is_remote
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly


def shard_path(
    folder: pathlib.Path, name: str, split: str, number: int, count: int
) -> pathlib.Path:
    """Where TFDS looks for shard `number` of `count` of a split."""
    return folder / f"{name}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write_classes(folder: pathlib.Path, corpus: Corpus) -> None:
    numbered = zip(range(len(corpus.classes)), corpus.class_ids, corpus.classes, strict=True)
    columns = ("index", "mid", "display_name")
    files.write_csv(folder / index_files.CLASSES_NAME, columns, numbered)


def write_unions(
    folder: pathlib.Path, corpus: Corpus, stored: Container[str]
) -> dict[str, list[str]]:
    """Writes which splits are made of which stored ones; returns those of `corpus`."""
    unions = {
        split: [name for name in names if name in stored]
        for split, names in corpus.unions.items()
        if split not in stored
    }
    if unions:
        files.write_json(folder / index_files.UNIONS_NAME, index_files.unions(folder) | unions)
    return unions


def write_metadata(folder: pathlib.Path, corpus: Corpus, indices: Mapping[str, ClipIndex]) -> None:
    """Writes TFDS's files; `dataset_info.json`, which makes the folder a data set, comes last."""
    if is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="psl_jax-") as temporary:
            local = pathlib.Path(temporary)
            shards = [
                shard_path(local, corpus.name, split, number, len(index.shard_sizes))
                for split, index in indices.items()
                for number in range(len(index.shard_sizes))
            ]
            for shard in shards:  # TFDS only looks for their names
                shard.touch()
            write_metadata(local, corpus, indices)
            written = set(local.iterdir()) - set(shards)
            for path in sorted(written, key=lambda path: path.name == INFO_NAME):
                (folder / path.name).upload(path)  # type: ignore[attr-defined]
        return
    tensorflow_quietly()  # before TFDS imports it
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        dataset_name=corpus.name, data_dir=os.fspath(folder), filetype_suffix="tfrecord"
    )
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=index.shard_sizes.tolist(),
            num_bytes=0 if index.record_bytes is None else int(index.record_bytes.sum()),
            filename_template=template.replace(split=split),
        )
        for split, index in indices.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(folder),
        features=clip_records.features(corpus.classes, events=corpus.has_events),
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description=f"{corpus.name}: clips at 16 kHz with weak labels; made by psl_jax.",
        disable_shuffling=True,
    )
