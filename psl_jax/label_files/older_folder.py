"""Converts folders of soft labels that earlier versions wrote, as shards of TFRecord or npz."""

import pathlib
import zipfile
import zlib

import numpy as np

from psl_jax.data import label_manifest, record_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.label_manifest import LabelRule
from psl_jax.data.soft_labels import SoftLabelWriter
from psl_jax.runtime import progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import local_copy

_DAMAGE = (
    *(record_files.DamagedRecordError, zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(KeyError, ValueError, TypeError, RuntimeError),  # of NumPy
)


def convert(folder: pathlib.Path, index: ClipIndex, out: pathlib.Path) -> None:
    """Writes the labels of `folder` into `out` in today's format, with the facts of its manifest.

    So a run that began with the old labels can go on with the new ones. Raises UserError for labels
    of other data, and for missing and damaged shards.
    """
    manifest = label_manifest.read(folder, label_manifest.OLD_FORMATS)
    segmentation = label_manifest.segmentation_of(folder, label_manifest.OLD_FORMATS)
    expected = label_manifest.described(index, segmentation)
    del expected["format"], expected["clip_ids_in_order"]  # ids are compared below
    if label_manifest.WEAK in manifest:
        expected[label_manifest.WEAK] = index.labels_sha256
    label_manifest.compare(folder, manifest, expected)
    writer = SoftLabelWriter(
        out,
        index,
        segmentation,
        teacher_digest=manifest["teacher_digest"],
        rule=LabelRule(dtype="", count_padding=manifest["count_padding"]),
        origin=manifest.get("origin"),
        teachers=manifest.get("teachers"),
        uses_weak_labels=label_manifest.WEAK in manifest,
    )
    for shard in progress.track(writer.missing, len(writer.missing), "shard", "import"):
        clips = slice(*index.shard_offsets[shard : shard + 2])
        counts = segmentation.count_segments(index.num_samples[clips])
        name = f"labels-{shard:05d}-of-{len(index.shard_sizes):05d}.{manifest['format']}"
        with local_copy(folder / name) as path:
            try:
                ids, values = _read_shard(path, len(counts), index.num_classes)
            except _DAMAGE as error:
                raise UserError(f"{folder / name}: missing or damaged: {error!r}") from error
        if ids != index.ids[clips].tolist() or values.shape != (counts.sum(), index.num_classes):
            raise UserError(f"{folder / name}: its clips are not those of the data's shard")
        writer.write_shard(shard, values)


def _read_shard(
    path: pathlib.Path, num_clips: int, num_classes: int
) -> tuple[list[str], np.ndarray]:
    """Reads a shard: ids [clips], and labels, float16 [segments, classes]."""
    if path.suffix == ".npz":
        with open(path, "rb") as file, np.load(file) as data:
            return data["ids"].tolist(), data["probabilities"]
    ids, labels = [], []
    for record in record_files.read_records(path, num_clips):
        features = record_files.parse_example(record)
        name, values = record_files.single_values(features, ("id", "probabilities"))
        ids.append(bytes(name).decode())
        labels.append(np.frombuffer(values, "<f2").reshape(-1, num_classes))
    return ids, np.concatenate(labels)
