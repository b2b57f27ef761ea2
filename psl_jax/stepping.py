"""From the settings of an experiment to what makes its training steps, and where they start."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from psl_jax.audio.segments import Segmentation
from psl_jax.config import Settings
from psl_jax.data import batches
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import Source
from psl_jax.data.time_shift import TimeShift
from psl_jax.model.mobilenetv2 import Network, Variables
from psl_jax.model.model import Model
from psl_jax.runtime.errors import UserError
from psl_jax.training import resident
from psl_jax.training.step import Recipe, train_program
from psl_jax.training.stepper import ResidentStepper, Stepper, StreamedStepper
from psl_jax.weights.load import load_model


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
    )


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
    return _like(settings, load_start(settings)) if settings.init_from else settings


def alike(experiments: Mapping[str, Settings], init_from: str) -> dict[str, Settings]:
    """The experiments of a suite that has `init_from`: those from scratch are of the same form."""
    if not init_from:
        return dict(experiments)
    start = next((load_start(one) for one in experiments.values() if one.init_from), None)
    return {
        name: one if one.init_from or start is None else _like(one, start)
        for name, one in experiments.items()
    }


def _like(settings: Settings, start: Model) -> Settings:
    info = start.info
    model = dataclasses.replace(settings.model, width=info.width)
    return dataclasses.replace(settings, model=model, frontend=info.logmel)


def load_start(settings: Settings) -> Model:
    """The model that is started from. Raises UserError naming the setting."""
    try:
        return load_model(settings.init_from)
    except UserError as error:
        raise UserError(f"config.init_from is {settings.init_from!r}: {error}") from error


def started(variables: Variables, start: Model, classes: Sequence[str]) -> Variables:
    """The arrays of `start`; of `variables` the classifier, where the classes are others."""
    params = dict(start.variables.params)
    if start.classes != tuple(classes):
        params["classifier"] = variables.params["classifier"]
    return Variables(params, start.variables.stats)


def _time_shift(settings: Settings) -> TimeShift | None:
    augment = settings.augment
    if not augment.shift_probability:
        return None
    return TimeShift(augment.shift_probability, augment.shift_fraction, settings.seed)


def stepper(
    settings: Settings,
    network: Network,
    source: Source,
    soft_labels: SoftLabels | None,
    mesh: Mesh,
    local_batch: int,
) -> Stepper:
    """What makes the training's steps, streamed or resident; local_batch: of this process."""
    recipe, segmentation = recipe_of(settings, mesh), Segmentation(settings.segment_seconds)
    order: dict[str, Any] = {
        "batch_size": local_batch,
        "seed": settings.seed,
        "sampling": settings.train.sampling,
        "window_clips": settings.train.window_clips,
        "shift": _time_shift(settings),
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if not settings.train.resident:

        def feed_batches(step: int):
            return batches.train_batches(
                source,
                segmentation,
                start_step=step,
                soft_labels=soft_labels,
                alpha=settings.alpha,
                **order,
            )

        return StreamedStepper(train_program(network, recipe, mesh), feed_batches, mesh)

    def feed_entries(step: int):
        return batches.train_entries(source.index, segmentation, start_step=step, **order)

    return ResidentStepper(
        resident.resident_program(
            network, recipe, segmentation, settings.alpha, mesh, order["shift"] is not None
        ),
        partial(resident.load, source, segmentation, soft_labels, mesh),
        feed_entries,
        mesh,
        # A dispatch ends where something is logged anyway.
        at_once=min(settings.train.steps_per_dispatch, settings.train.log_every),
    )
