"""What settings mean together with the data and the devices, and which do not fit them."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from psl_jax.audio.segments import Segmentation, check_hop
from psl_jax.config import Settings
from psl_jax.data.clip_index import ClipIndex
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError

# Of memory that a training step takes at least for a second of audio at width 1 (measured on an
# H100 in bfloat16: 3.4 MB).
_LEAST_BYTES_PER_SECOND = 1e6
_LEAST_SCORING_BYTES_PER_SECOND = 1e5  # its samples as int16 and float32


def training_segmentation(settings: Settings) -> Segmentation:
    """How the training clips are cut. Raises UserError for a hop that is none."""
    segmentation = Segmentation(
        settings.segment_seconds, settings.hop_seconds or None, settings.shortest_segment_seconds
    )
    check_hop(segmentation, "config.hop_seconds")
    return segmentation


def check(settings: Settings, indices: Mapping[str, ClipIndex]) -> None:
    """Raises UserError for settings that do not go together, or not with the data.

    indices: by the name of the setting in config.data.
    """
    if settings.train.trainable != "all" and not settings.init_from:
        raise UserError(
            f"config.train.trainable is {settings.train.trainable!r}, and the rest of the network "
            "would stay random: give a finished model as config.init_from, or train.trainable=all"
        )
    if settings.teaches_in_step:
        _check_teacher_in_step(settings)
    if settings.model.output == "softmax":
        _check_softmax(settings, indices)
    _check_labels(settings, indices)


def _check_teacher_in_step(settings: Settings) -> None:
    for name, value, reason in (
        ("soft_labels_dir", settings.soft_labels_dir, "no stored labels are used"),
        ("corrections", settings.corrections, "labels cannot be corrected"),
        ("augment.shift_probability", settings.augment.shift_probability, "it hears shifted audio"),
    ):
        if value:
            raise UserError(
                f"config.{name} is {value!r}, and the teacher labels in the step, where {reason}: "
                "leave it out, or give --config.relabel.when=beforehand"
            )


_AUGMENTATIONS = (
    *("gain_probability", "polarity_probability", "shift_probability"),
    *("time_masks", "frequency_masks", "mixup_alpha"),
)


def has_constant_features(settings: Settings) -> bool:
    """Whether all that is below the classifier gives the same of a segment at every step."""
    return (
        settings.train.trainable == "classifier"
        and not any(getattr(settings.augmentation, name) for name in _AUGMENTATIONS)
        and not settings.teaches_in_step
        and settings.frontend.top_db_over != "batch"
    )


def check_batch(settings: Settings, mesh: Mesh) -> None:
    """Raises UserError for a batch that does not fit the devices, naming one that does."""
    size = settings.train.batch_size
    multiple = batch_multiple(settings, mesh.size)
    if size % multiple:
        mixed = (
            "mixup pairs the examples of each device: " if settings.augmentation.mixup_alpha else ""
        )
        raise UserError(
            f"config.train.batch_size is {size} on {mesh.size} devices: {mixed}give a multiple of "
            f"{multiple}, such as {-(-size // multiple) * multiple}"
        )
    step_bytes = max(settings.model.width, 0.1) * _LEAST_BYTES_PER_SECOND
    for name, work, bytes_per_second, unit in (
        ("train", "a step", step_bytes, multiple),
        ("relabel", "a batch", _LEAST_SCORING_BYTES_PER_SECOND, mesh.size),
        ("evaluate", "a batch", _LEAST_SCORING_BYTES_PER_SECOND, mesh.size),
    ):
        size = getattr(settings, name).batch_size
        bytes_per_example = settings.segment_seconds * bytes_per_second
        memory, local = parallel.memory_bytes(mesh), size // jax.process_count()
        if local * bytes_per_example > memory:
            fitting = int(memory / bytes_per_example) * jax.process_count() // unit * unit
            raise UserError(
                f"config.{name}.batch_size is {size}: {work} takes more than "
                f"{local * bytes_per_example / 1e9:,.0f} GB, and there are {memory / 1e9:,.0f} GB. "
                f"At most {max(fitting, unit):,} can fit"
            )


def batch_multiple(settings: Settings, num_devices: int) -> int:
    """What a batch is a multiple of."""
    return num_devices * (2 if settings.augmentation.mixup_alpha else 1)


def fitting_batch(batch_size: int, num_segments: int, *, multiple: int) -> int:
    """The batch size; for 0 a multiple that fits a set of segments: 4 to 32, a 16th of the set."""
    if batch_size:
        return batch_size
    power = int(np.clip(2 ** round(np.log2(max(num_segments, 1) / 16)), 4, 32))
    return -(-power // multiple) * multiple


def _check_softmax(settings: Settings, indices: Mapping[str, ClipIndex]) -> None:
    for name, value in (
        ("labels", settings.uses_soft_labels and "soft"),
        ("corrections", settings.corrections),
    ):
        if value:
            raise UserError(
                "config.model.output is softmax, which tells one class a clip, and "
                f"config.{name} is {value!r}: leave it out, or give --config.model.output=sigmoid"
            )
    for setting, index in indices.items():
        clips = np.flatnonzero(np.diff(index.label_offsets) != 1)
        if len(clips):
            raise UserError(
                f"config.model.output is softmax, which needs one label a clip, and "
                f"{len(clips):,} of the {len(index):,} clips of config.data.{setting}="
                f"{index.split} have none or several, such as {str(index.ids[clips[0]])!r}: give "
                "--config.model.output=sigmoid"
            )


def _check_labels(settings: Settings, indices: Mapping[str, ClipIndex]) -> None:
    for setting, index in indices.items():
        if setting != "train_split" and index.is_labelled and not len(index.label_values):
            raise UserError(
                f"config.data.{setting}={index.split}: its clips have no label, and some are known "
                "to lack classes: a mAP needs clips that have one. Give another split"
            )
    train = indices["train_split"]
    if not train.is_labelled and not settings.uses_soft_labels:
        raise UserError(
            f"config.labels is weak, and no clip of config.data.train_split={train.split} has a "
            "label: give --config.labels=soft and a teacher (--config own_data:unlabelled)"
        )
