"""Folders of soft labels that earlier versions wrote, as shards of TFRecord or npz."""

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

_VALUES = "probabilities"
_DAMAGE = (
    *(record_files.DamagedFileError, zipfile.BadZipFile, zlib.error, OSError, EOFError),
    *(KeyError, ValueError, TypeError, RuntimeError),  # of NumPy
)


def convert(folder: pathlib.Path, index: ClipIndex, out: pathlib.Path) -> None:
    """Writes the labels of `folder` into `out` as today's, with what its manifest says of them.

    So a run that was begun with them goes on with these. Raises UserError for labels of other data,
    and for missing and damaged shards.
    """
    manifest = label_manifest.read(folder, label_manifest.OLD_FORMATS)
    segmentation = label_manifest.segmentation_of(folder, label_manifest.OLD_FORMATS)
    expected = label_manifest.described(index, segmentation)
    del expected["format"], expected["clip_ids_in_order"]  # ids are compared below
    if label_manifest.WEAK in manifest:
        expected[label_manifest.WEAK] = index.labels_sha256
    label_manifest.compare(folder, manifest, expected)
    rule = LabelRule(dtype="", count_padding=manifest["count_padding"])
    writer = SoftLabelWriter(
        out,
        index,
        segmentation,
        teacher_digest=manifest["teacher_digest"],
        rule=rule,
        origin=manifest.get("origin"),
        teachers=manifest.get("teachers"),
        uses_weak_labels=label_manifest.WEAK in manifest,
    )
    counts = segmentation.counts(index.num_samples)
    missing = writer.missing
    for shard in progress.track(missing, len(missing), "shard", "import"):
        name = f"labels-{shard:05d}-of-{len(index.shard_sizes):05d}.{manifest['format']}"
        clips = slice(*index.shard_offsets[shard : shard + 2])
        count = int(index.shard_sizes[shard])
        with local_copy(folder / name) as path:
            try:
                ids, values = _read(path, manifest["format"], count, index.num_classes)
            except _DAMAGE as error:
                raise UserError(f"{folder / name}: missing or damaged: {error!r}") from error
        if ids != index.ids[clips].tolist():
            raise UserError(f"{folder / name}: its clips are not those of the data's shard")
        rows = int(counts[clips].sum())
        if values.shape != (rows, index.num_classes):
            raise UserError(f"{folder / name}: {len(values)} rows of labels, expected {rows}")
        writer.write_shard(shard, np.split(values, np.cumsum(counts[clips])[:-1]))


def _read(
    path: pathlib.Path, format: str, clips: int, num_classes: int
) -> tuple[list[str], np.ndarray]:
    """Ids [clips] and float16 [segments, classes] of a shard."""
    if format == "npz":
        with open(path, "rb") as file, np.load(file) as data:
            return data["ids"].tolist(), data[_VALUES]
    ids, values = [], []
    for record in record_files.read_records(path, range(clips)):
        name, found = record_files.bytes_features(record, ("id", _VALUES))
        ids.append(bytes(name).decode())
        values.append(np.frombuffer(found, "<f2").reshape(-1, num_classes))
    return ids, np.concatenate(values)
