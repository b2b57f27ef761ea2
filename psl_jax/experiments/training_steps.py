"""From the settings of an experiment to what makes its training steps."""

import dataclasses
from collections.abc import Callable, Iterator

from jax.sharding import Mesh

from psl_jax.config import Settings
from psl_jax.data import batches
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.networks.architecture import Network, Variables
from psl_jax.networks.trained_model import Model
from psl_jax.runtime import parallel
from psl_jax.scoring import evaluation
from psl_jax.training import frozen_features
from psl_jax.training.loop import Stepper
from psl_jax.training.step import Recipe, TeacherInStep, train_program


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


def make_stepper(
    settings: Settings,
    network: Network,
    *,
    segments: Segments,
    order: TrainingOrder,
    mesh: Mesh,
    teacher: Model | None = None,
) -> Stepper:
    """What makes the training's steps. teacher: labels in the step, instead of stored labels."""
    augment = settings.augment
    shift = None
    if augment.shift_probability:
        shift = batches.TimeShift(augment.shift_probability, augment.shift_fraction, settings.seed)

    def feed(step: int) -> Iterator[Batch]:
        return batches.train_batches(segments, order, start_step=step, shift=shift)

    recipe = make_recipe(settings)
    if teacher is None:
        recipe = dataclasses.replace(recipe, has_unknown=segments.has_unknown)
        return Stepper(train_program(network, recipe, mesh), feed, mesh)
    in_step = _describe_teacher(settings, teacher, segments=segments)
    program = train_program(network, dataclasses.replace(recipe, teacher=in_step), mesh)
    folded = parallel.replicate(teacher.folded, mesh)
    return Stepper(lambda *inputs: program(*inputs, folded), feed, mesh)


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


def make_features_stepper(
    settings: Settings,
    network: Network,
    variables: Variables,
    *,
    segments: Segments,
    order: TrainingOrder,
    mesh: Mesh,
    validation: Source,
    cut: evaluation.AnySegmentation,
) -> tuple[Stepper, Callable[[Variables], float]]:
    """What trains and validates the classifier on the features of the frozen network.

    cut: of the clips of the validation.
    """
    recipe, batch_size = make_recipe(settings), settings.evaluate.batch_size
    features = frozen_features.compute_features(
        network, variables, recipe=recipe, segments=segments, batch_size=batch_size or 64
    )
    score = frozen_features.make_scorer(
        settings.architecture.fold(variables, settings.model.output),
        recipe,
        source=validation,
        cut=cut,
        batch_size=batch_size,
    )

    def feed(step: int) -> Iterator[Batch]:
        return frozen_features.train_batches(features, segments, order=order, start_step=step)

    def validate(variables: Variables) -> float:
        scores = score(variables.params["classifier"])
        return evaluation.mean_average_precision(scores, validation.index)

    recipe = dataclasses.replace(recipe, has_unknown=segments.has_unknown)
    return Stepper(train_program(network, recipe, mesh), feed, mesh), validate
