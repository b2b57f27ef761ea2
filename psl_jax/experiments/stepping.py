"""From the settings of an experiment to what makes its training steps, and where they start."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from psl_jax.audio.segments import Segmentation, check_hop
from psl_jax.config import Settings
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.data.time_shift import TimeShift
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.folding import FoldedNetwork, fold
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import Network, Variables
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.training.step import Recipe, TeacherInStep, train_program
from psl_jax.training.stepper import Stepper
from psl_jax.weights.load_model import load_model

# Of memory that a training step takes at least for a second of audio at width 1 (measured on an
# H100 in bfloat16: 3.4 MB).
_LEAST_BYTES_PER_SECOND = 1e6
_LEAST_SCORING_BYTES_PER_SECOND = 1e5  # its samples as int16 and float32


def segmentation_of(settings: Settings) -> Segmentation:
    """How the training clips are cut. Raises UserError for a hop that is none."""
    found = Segmentation(
        settings.segment_seconds, settings.hop_seconds or None, settings.shortest_segment_seconds
    )
    check_hop(found, "config.hop_seconds")
    return found


def labels_in_step(settings: Settings) -> bool:
    """Whether the teacher labels inside the training step.

    Raises UserError naming a setting that does not go with it.
    """
    if settings.labels != "soft" or not settings.alpha or settings.relabel.when == "beforehand":
        return False
    if settings.soft_labels_dir:
        raise UserError(
            f"config.soft_labels_dir is {settings.soft_labels_dir!r}: a teacher in the step uses "
            "no stored labels; give --config.relabel.when=beforehand, or none"
        )
    if settings.augment.shift_probability:
        raise UserError(
            "config.augment.shift_probability shifts the audio before the step, where a teacher in "
            "the step could not hear it as it was; give --config.relabel.when=beforehand, or 0"
        )
    return True


_AUGMENTATIONS = (
    *("gain_probability", "polarity_probability", "shift_probability"),
    *("time_masks", "frequency_masks", "mixup_alpha"),
)


def features_stay_the_same(settings: Settings) -> bool:
    """Whether all that is below the classifier gives the same of a segment at every step."""
    return (
        settings.train.trainable == "classifier"
        and not any(getattr(settings.augment, name) for name in _AUGMENTATIONS)
        and not labels_in_step(settings)
        and settings.frontend.top_db_over != "batch"
    )


def check_batch(settings: Settings, mesh: Mesh) -> None:
    """Raises UserError for a batch that does not fit the devices, naming one that does."""
    size = settings.train.batch_size
    multiple = batch_multiple(settings, mesh.size)
    if size % multiple:
        mixed = "mixup pairs the examples of each device: " if settings.augment.mixup_alpha else ""
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


def batch_multiple(settings: Settings, devices: int) -> int:
    """What a batch is a multiple of."""
    return devices * (2 if settings.augment.mixup_alpha else 1)


def recipe_of(settings: Settings, mesh: Mesh) -> Recipe:
    """The recipe of the steps; raises UserError where it does not fit the devices."""
    model = settings.model
    if settings.train.trainable != "all" and not settings.init_from:
        raise UserError(
            f"config.train.trainable is {settings.train.trainable!r}, and the rest of the network "
            "would stay random: give a finished model as config.init_from"
        )
    return Recipe(
        settings.frontend,
        settings.augment,
        model.dtype,
        settings.seed,
        settings.train.trainable,
        sharing_devices=_sharing_devices(model.batch_norm, mesh.size),
        count_padding=model.count_padding,
        output=model.output,
    )


def check_output(settings: Settings, indices: Mapping[str, ClipIndex]) -> None:
    """Raises UserError where a softmax, which tells one class a clip, does not fit the data.

    indices: by the name of the setting in config.data.
    """
    if settings.model.output != "softmax":
        return
    if settings.labels == "soft" and settings.alpha:
        raise UserError(
            "config.model.output is softmax, which tells one class a clip, and config.labels is "
            "soft: give --config.model.output=sigmoid, or --config.labels=weak"
        )
    for setting, index in indices.items():
        several = np.flatnonzero(np.diff(index.label_offsets) != 1)
        if len(several):
            raise UserError(
                f"config.model.output is softmax, which needs one label a clip, and "
                f"{len(several):,} of the {len(index):,} clips of config.data.{setting}="
                f"{index.split} have none or several, such as {str(index.ids[several[0]])!r}: give "
                "--config.model.output=sigmoid"
            )


def _with_teacher(recipe: Recipe, settings: Settings, teacher: Model, index: ClipIndex) -> Recipe:
    segmentation = segmentation_of(settings)
    last = segmentation.counts(index.num_samples) - 1
    ends = segmentation.valid_samples(index.num_samples, last)
    return dataclasses.replace(
        recipe,
        teacher=TeacherInStep(
            alpha=settings.alpha,
            logmel=teacher.info.logmel,
            dtype=settings.relabel.dtype,
            padded=bool((ends < segmentation.segment_samples).any()),
            count_padding=settings.relabel.count_padding,
        ),
    )


def _with_last(program: Callable, *arguments: Any) -> Callable:
    """`program` with its last arguments given."""
    return lambda *first: program(*first, *arguments)


def _sharing_devices(batch_norm: str, devices: int) -> int:
    """How many devices share their BatchNorm statistics; 0: all."""
    if batch_norm == "global":
        return 0
    if batch_norm != "device" and (not batch_norm.isdecimal() or devices % int(batch_norm)):
        raise UserError(
            f"config.model.batch_norm is {batch_norm!r}: expected global, device, or a number that "
            f"divides the {devices} devices"
        )
    sharing = 1 if batch_norm == "device" else int(batch_norm)
    return 0 if sharing == devices else sharing


def with_start(settings: Settings) -> Settings:
    """The settings with the width and the front end of the model that is started from."""
    if not settings.init_from:
        return settings
    info = load_start(settings).info
    return _shaped(settings, info.width, info.logmel)


def alike(experiments: Mapping[str, Settings], init_from: str) -> dict[str, Settings]:
    """The experiments of a suite, each with the form of the network that it starts from.

    That may be another one of them, which comes before. Where the suite has `init_from`, those from
    scratch are of the same form.
    """
    found: dict[str, Settings] = {}
    for name, one in experiments.items():
        if (start := found.get(one.init_from)) is not None:
            found[name] = _shaped(one, start.model.width, start.frontend)
        else:
            found[name] = with_start(one)
    start = next((one for one in found.values() if one.init_from), None)
    if not init_from or start is None:
        return found
    return {
        name: one if one.init_from else _shaped(one, start.model.width, start.frontend)
        for name, one in found.items()
    }


def _shaped(settings: Settings, width: float, logmel: LogMel) -> Settings:
    model = dataclasses.replace(settings.model, width=width)
    return dataclasses.replace(settings, model=model, frontend=logmel)


def load_start(settings: Settings, folder: str | os.PathLike | None = None) -> Model:
    """The model that is started from; `folder` says where another experiment of the suite lies.

    Raises UserError naming the setting.
    """
    try:
        return load_model(folder or settings.init_from)
    except UserError as error:
        raise UserError(f"config.init_from is {settings.init_from!r}: {error}") from error


def started(
    variables: Variables, start: Model, classes: Sequence[str], output: str = "sigmoid"
) -> Variables:
    """The arrays of `start`; of `variables` the classifier, where classes or output are others."""
    params = dict(start.variables.params)
    if start.classes != tuple(classes) or start.info.output != output:
        params["classifier"] = variables.params["classifier"]
    return Variables(params, start.variables.stats)


def _time_shift(settings: Settings) -> TimeShift | None:
    augment = settings.augment
    if not augment.shift_probability:
        return None
    return TimeShift(augment.shift_probability, augment.shift_fraction, settings.seed)


def order_of(settings: Settings, local_batch: int, is_streamed: bool) -> TrainingOrder:
    """The order of training; local_batch: of this process; is_streamed: see `Source`."""
    return TrainingOrder(
        local_batch,
        settings.seed,
        settings.train.sampling,
        is_streamed,
        jax.process_index(),
        jax.process_count(),
    )


def stepper(
    settings: Settings,
    network: Network,
    source: Source,
    soft_labels: SoftLabels | None,
    mesh: Mesh,
    local_batch: int,
    teacher: Model | None = None,
) -> Stepper:
    """What makes the training's steps; local_batch: of this process.

    teacher: labels in the step, instead of the stored soft labels.
    """
    recipe, segmentation = recipe_of(settings, mesh), segmentation_of(settings)
    arrays: tuple[FoldedNetwork, ...] = ()
    if teacher is not None:
        recipe = _with_teacher(recipe, settings, teacher, source.index)
        arrays = (parallel.replicate(fold(teacher.variables, teacher.info.output), mesh),)
    order = order_of(settings, local_batch, source.is_streamed)
    segments = Segments(source, segmentation, soft_labels, settings.alpha)

    def feed_batches(step: int):
        shift = _time_shift(settings)
        return batches.train_batches(segments, order, start_step=step, shift=shift)

    return Stepper(_with_last(train_program(network, recipe, mesh), *arrays), feed_batches, mesh)
