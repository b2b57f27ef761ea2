"""From the settings of an experiment to its first arrays and to what makes its steps."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from psl_jax.config import EQUAL_NAMES, Settings
from psl_jax.data import batches
from psl_jax.data.segment_loader import Segments
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.architecture import Network, Variables
from psl_jax.networks.class_lists import match_classes
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.teachers.open_teacher import parse_name
from psl_jax.training import frozen_features
from psl_jax.training.loop import Feed
from psl_jax.training.step import Recipe, TeacherInStep, train_program
from psl_jax.weights.load_model import load_model


def load_start(init_from: str) -> Model:
    """The model of `Settings.init_from`. Raises UserError naming the setting."""
    try:
        kind, where = parse_name(init_from)
        if kind not in ("run", "mn"):
            raise UserError("expected one model of psl_jax's networks")
        return load_model(where)
    except UserError as error:
        raise UserError(f"config.init_from is {init_from!r}: {error}") from error


def start_variables(
    variables: Variables, start: Model, classes: Sequence[str], settings: Settings
) -> Variables:
    """The arrays of `start`; of `variables` the classifier, where classes or output are others.

    See `Settings.init_class_map`; a class of several has the mean of their rows.
    """
    params = dict(start.variables.params)
    has_output = start.info.output == settings.model.output
    if has_output and start.classes == tuple(classes):
        return Variables(params, start.variables.stats)
    fresh = {name: np.array(array) for name, array in variables.params["classifier"].items()}
    if settings.init_class_map and has_output:
        path = "" if settings.init_class_map == EQUAL_NAMES else settings.init_class_map
        columns = match_classes(start.classes, classes, start.info.name, path, "drop")
        for name, array in params["classifier"].items():
            for number, places in enumerate(columns):
                if places:
                    fresh[name][..., number] = np.asarray(array)[..., places].mean(axis=-1)
    return Variables(params | {"classifier": fresh}, start.variables.stats)


def make_recipe(settings: Settings) -> Recipe:
    """The recipe of the steps, but for what depends on the data."""
    model = settings.model
    return Recipe(
        settings.front_end,
        settings.augmentation,
        dtype=model.dtype,
        seed=settings.seed,
        trainable=settings.train.trainable,
        count_padding=model.count_padding,
        output=model.output,
        backbone_factor=settings.train.backbone_factor,
    )


def make_feed(
    settings: Settings,
    segments: Segments,
    *,
    order: TrainingOrder,
    features: np.ndarray | None = None,
) -> Feed:
    """What gives the batches; of `frozen_features.compute_features` instead of audio, if given."""
    if features is not None:
        return lambda step: frozen_features.train_batches(
            features, segments, order=order, start_step=step
        )
    augment, shift = settings.augment, None
    if augment.shift_probability:
        shift = batches.TimeShift(augment.shift_probability, augment.shift_fraction, settings.seed)
    return lambda step: batches.train_batches(segments, order, start_step=step, shift=shift)


def make_program(
    settings: Settings,
    network: Network,
    *,
    segments: Segments,
    mesh: Mesh,
    teacher: Model | None = None,
) -> Callable[..., Any]:
    """What makes a step. teacher: labels in it, instead of stored labels."""
    recipe = make_recipe(settings)
    if teacher is None:
        recipe = dataclasses.replace(recipe, has_unknown=segments.has_unknown)
        return train_program(network, recipe, mesh)
    in_step = _describe_teacher(settings, teacher, segments=segments)
    program = train_program(network, dataclasses.replace(recipe, teacher=in_step), mesh)
    folded = parallel.replicate(teacher.folded, mesh)
    return lambda *inputs: program(*inputs, folded)


def _describe_teacher(settings: Settings, teacher: Model, *, segments: Segments) -> TeacherInStep:
    segmentation, num_samples = segments.segmentation, segments.source.index.num_samples
    last = segmentation.count_segments(num_samples) - 1
    ends = segmentation.count_valid_samples(num_samples, last)
    return TeacherInStep(
        alpha=settings.alpha,
        has_unknown=segments.has_unknown,
        front_end=teacher.info.front_end,
        dtype=settings.relabel.dtype,
        padded=bool((ends < segmentation.segment_samples).any()),
        count_padding=settings.relabel.count_padding,
    )
