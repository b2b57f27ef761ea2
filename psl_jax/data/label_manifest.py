"""What soft labels were made from and with: the rule, and the manifest that tells it.

`manifest.json` lies beside the shards of labels (see `soft_labels`). Labels are used where all that
it says fits, and refused in words where it does not.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, Segmentation
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime import files, removed_settings
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.settings import setting

FORMAT, OLD_FORMATS = "npy", ("tfrecord", "npz")  # of the shards
MANIFEST = "manifest.json"
WEAK = "weak_labels_sha256"  # in the manifest of labels that depend on the clips' weak ones


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """How soft labels are made of a teacher's scores, told by the manifest: in config.relabel.

    The default is the paper's: a segment's label is the teacher's score of that segment.
    """

    count_padding: bool = setting(
        False,
        help="Average the teacher's output over the zero padding after a clip's end, too, as in "
        "the published code",
    )
    # The manifest lacks it where it is not known.
    dtype: str = setting(
        "float32",
        choices=("float32", "bfloat16"),
        help="Precision in which scores are computed; bfloat16 is faster, and changed some "
        "probabilities by up to 0.18",
    )

    def entries(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"count_padding": self.count_padding} | ({"dtype": self.dtype} if self.dtype else {})


# What else earlier versions could change, with the only values that are accepted: digests keep
# them.
REMOVED_PARTS = {
    "overlap": 0.0,
    "prior": 0.0,
    "prior_recall": None,
    "top_k": 0,
    "temperature": 1.0,
    "calibrate": "none",
}

# What labels are like that were made before manifests told it.
_UNTOLD = LabelRule(dtype="").entries() | {"shortest_seconds": MIN_SEGMENT_SECONDS}

# Which setting says how clips are cut in training, and what labels are computed in.
_SETTINGS = {
    "segment_seconds": "segment_seconds",
    "hop_seconds": "hop_seconds",
    "shortest_seconds": "shortest_segment_seconds",
    "dtype": "relabel.dtype",
}
# How labels are made anew, by the kind of their origin.
_REMAKE = {"imported": "psl-jax labels import", "cut": "psl-jax labels resegment"}


def segmentation_of(
    directory: str | os.PathLike[str], formats: Sequence[str] = (FORMAT,)
) -> Segmentation:
    """How the clips were cut that these labels are of. Raises UserError without a manifest."""
    manifest = read(directory, formats)
    names = ("segment_seconds", "hop_seconds", "shortest_seconds")
    try:
        seconds, hop, shortest = (float(manifest[name]) for name in names)
        return Segmentation(seconds, None if hop == seconds else hop, shortest)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory}/{MANIFEST} is damaged: it tells no length of segments"
        ) from error


def digest_without_teacher(directory: str | os.PathLike[str], even_relabeled: bool) -> str | None:
    """What stands for the teacher of labels that are used without one; None: they need theirs.

    even_relabeled: not only of labels that were imported or cut, whose manifest has an `origin`.
    """
    if not are_begun(directory):
        return None
    manifest = read(directory)
    return manifest.get("teacher_digest") if even_relabeled or "origin" in manifest else None


def are_begun(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory has a manifest."""
    return (path_of(directory) / MANIFEST).exists()


def described(index: ClipIndex, segmentation: Segmentation) -> dict[str, Any]:
    """What the manifest of labels says of the data and its segments."""
    return {
        "segment_seconds": float(segmentation.seconds),
        "hop_seconds": float(segmentation.hop_seconds or segmentation.seconds),
        "shortest_seconds": float(segmentation.shortest_seconds),
        "classes": list(index.classes),
        "split": index.split,
        "num_clips": len(index),
        "clip_ids_sha256": index.ids_sha256,
        "clip_ids_in_order": files.json_digest(index.ids.tolist()),
        "format": FORMAT,
        "shard_sizes": index.shard_sizes.tolist(),
    }


def remake(manifest: dict[str, Any]) -> str:
    """What makes such labels, in words."""
    origin = manifest.get("origin")
    kind = origin.get("kind") if isinstance(origin, dict) else None
    return f"`{_REMAKE[kind]}`" if kind in _REMAKE else "relabel"


def read(directory: str | os.PathLike[str], formats: Sequence[str] = (FORMAT,)) -> dict[str, Any]:
    """The manifest of labels in one of the `formats`. Raises UserError for any other folder."""
    path = path_of(directory) / MANIFEST
    try:
        manifest = files.read_json(path)
        format = manifest.get("format")
        if format in OLD_FORMATS and format not in formats:
            raise UserError(
                f"{directory} holds soft labels of an earlier version ({format} files). This reads "
                f"them once: psl-jax labels import {directory} DATA --split={manifest['split']} "
                "--out=NEW. Then point soft_labels_dir at NEW, or put it in the place of the old"
            )
        if format == FORMAT and format not in formats:
            raise UserError(
                f"{directory} holds soft labels of this version, which need no import: point "
                "soft_labels_dir at it, or copy it"
            )
        if format not in formats or not isinstance(manifest.get("shard_sizes"), list):
            raise ValueError("it describes no soft labels")
        values = {f"relabel.{name}": value for name, value in manifest.items()}
        if view := manifest.get("view"):
            values["relabel.views"] = view["number"] + 1
        removed_settings.check(values, directory)
        return dict(_UNTOLD | manifest)
    except FileNotFoundError:
        raise UserError(
            f"{directory} holds no soft labels (no {MANIFEST}); run the relabel stage, or point "
            "soft_labels_dir at the directory that holds them"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete {directory}, and make the labels again"
        ) from error


def compare(directory: pathlib.Path, manifest: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UserError where a manifest differs from what is expected."""
    for key, value in expected.items():
        stored = manifest.get(key)
        if stored == value or (key == "dtype" and stored is None):
            continue
        made = remake(manifest)
        advice = f"Run {made} again into an empty directory, or point soft_labels_dir elsewhere"
        if key in _SETTINGS:
            advice += f"; to train on these, give --config.{_SETTINGS[key]}={stored}"
        elif key == "count_padding" and "origin" in manifest:
            advice = (
                f"They come from {made}, not from a relabeling of this run: leave "
                f"config.relabel.{key} at its default, {stored}"
            )
        if isinstance(value, list) and isinstance(stored, list):
            pairs = itertools.zip_longest(value, stored)
            value, stored = next(pair for pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"{directory} holds soft labels for something else: {key} differs: expected "
            f"{value!r}, found {stored!r}. {advice}"
        )
