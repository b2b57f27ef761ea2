"""From the settings of an experiment to what makes its training steps."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh

from psl_jax.config import Settings
from psl_jax.data import batches
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.experiments.setting_checks import sharing_devices
from psl_jax.networks.architecture import Network, Variables
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.scoring import evaluation
from psl_jax.training import frozen_features
from psl_jax.training.loop import Stepper
from psl_jax.training.step import Recipe, TeacherInStep, train_program


def make_recipe(settings: Settings, mesh: Mesh) -> Recipe:
    """The recipe of the steps; raises UserError where it does not fit the devices."""
    model = settings.model
    if settings.train.trainable != "all" and not settings.init_from:
        raise UserError(
            f"config.train.trainable is {settings.train.trainable!r}, and the rest of the network "
            "would stay random: give a finished model as config.init_from"
        )
    return Recipe(
        settings.front_end,
        settings.augmentation,
        dtype=model.dtype,
        seed=settings.seed,
        trainable=settings.train.trainable,
        sharing_devices=sharing_devices(model.batch_norm, mesh.size),
        count_padding=model.count_padding,
        output=model.output,
        backbone_factor=settings.train.backbone_factor,
    )


def make_order(settings: Settings, *, local_batch: int, is_streamed: bool) -> TrainingOrder:
    """The order of training; local_batch: of this process; is_streamed: see `Source`."""
    return TrainingOrder(
        local_batch,
        settings.seed,
        sampling=settings.train.sampling,
        streamed=is_streamed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def make_stepper(
    settings: Settings,
    network: Network,
    *,
    segments: Segments,
    local_batch: int,
    mesh: Mesh,
    teacher: Model | None = None,
) -> Stepper:
    """What makes the training's steps; local_batch: of this process.

    teacher: labels in the step, instead of stored soft labels.
    """
    recipe = make_recipe(settings, mesh)
    recipe = dataclasses.replace(recipe, has_unknown=segments.has_unknown and teacher is None)
    order = make_order(settings, local_batch=local_batch, is_streamed=segments.source.is_streamed)
    augment = settings.augment
    shift = None
    if augment.shift_probability:
        shift = batches.TimeShift(augment.shift_probability, augment.shift_fraction, settings.seed)

    def feed(step: int) -> Iterator[Batch]:
        return batches.train_batches(segments, order, start_step=step, shift=shift)

    if teacher is None:
        return Stepper(train_program(network, recipe, mesh), feed, mesh)
    recipe = dataclasses.replace(
        recipe, teacher=_teacher_in_step(settings, teacher, segments=segments)
    )
    folded = parallel.replicate(teacher.folded, mesh)
    program = train_program(network, recipe, mesh)
    return Stepper(lambda *inputs: program(*inputs, folded), feed, mesh)


def _teacher_in_step(settings: Settings, teacher: Model, *, segments: Segments) -> TeacherInStep:
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


def make_features_stepper(
    settings: Settings,
    network: Network,
    *,
    variables: Variables,
    segments: Segments,
    local_batch: int,
    mesh: Mesh,
    validation: Source,
    cut: evaluation.AnySegmentation,
) -> tuple[Stepper, Callable[[Variables], float]]:
    """What trains and validates the classifier on the features of the frozen network.

    cut: of the clips of the validation.
    """
    recipe, batch_size = make_recipe(settings, mesh), settings.evaluate.batch_size
    num_devices = settings.num_devices or None
    features = frozen_features.compute_features(
        network,
        variables,
        recipe=recipe,
        segments=segments,
        batch_size=batch_size or 64,
        num_devices=num_devices,
    )
    scorer = frozen_features.FrozenScorer(
        settings.architecture.fold(variables, settings.model.output),
        recipe,
        source=validation,
        cut=cut,
        batch_size=batch_size,
        num_devices=num_devices,
    )
    order = make_order(settings, local_batch=local_batch, is_streamed=False)

    def feed(step: int) -> Iterator[Batch]:
        return frozen_features.train_batches(features, segments, order=order, start_step=step)

    def validate(variables: Variables) -> float:
        scores = scorer.scores(variables.params["classifier"])
        return evaluation.mean_average_precision(scores, validation.index)

    recipe = dataclasses.replace(recipe, has_unknown=segments.has_unknown)
    return Stepper(train_program(network, recipe, mesh), feed, mesh), validate
