"""The training of a classifier on features that are computed once: where it can be, and how."""

import os
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from psl_jax.config import Settings
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import Source
from psl_jax.experiments import stepping
from psl_jax.model.frontend import num_frames
from psl_jax.model.mobilenetv2 import Network, Variables, output_frames
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of, remove_tree
from psl_jax.runtime.run_folder import FEATURES
from psl_jax.scoring import evaluation
from psl_jax.training.frozen_features import TrainFeatures, ValidationFeatures
from psl_jax.training.step import train_program
from psl_jax.training.stepper import Stepper

MOST_BYTES = 32e9  # of a cache that nobody asked for
_AUGMENTATIONS = (
    *("gain_probability", "polarity_probability", "shift_probability"),
    *("time_masks", "frequency_masks", "mixup_alpha"),
)


def is_wanted(settings: Settings, num_bytes: Callable[[], int]) -> bool:
    """Whether features are cached; num_bytes: that they take.

    Raises UserError where they are asked for and cannot be.
    """
    asked = settings.train.cache_features
    reason = _reason_against(settings)
    if asked == "on" and reason:
        raise UserError(
            f"config.train.cache_features is on, and {reason}: give "
            "--config.train.cache_features=auto"
        )
    return not reason and (asked == "on" or (asked == "auto" and num_bytes() <= MOST_BYTES))


def _reason_against(settings: Settings) -> str:
    if settings.train.trainable != "classifier":
        return f"config.train.trainable is {settings.train.trainable}: features change with it"
    for name in _AUGMENTATIONS:
        if value := getattr(settings.augment, name):
            return f"config.augment.{name} is {value}: each step would hear other audio"
    if stepping.labels_in_step(settings):
        return "config.relabel.when is in_step: the teacher has to hear the audio"
    if settings.frontend.top_db_over == "batch":
        return "config.frontend.top_db_over is batch: features depend on what else is in a batch"
    return ""


def num_bytes(settings: Settings, channels: int, train: ClipIndex, validation: ClipIndex) -> int:
    """About what the features of both splits take; channels: of a frame."""
    segmentation = stepping.segmentation_of(settings)
    frames = output_frames(num_frames(segmentation.segment_samples))
    segments = int(segmentation.counts(train.num_samples).sum(dtype=np.int64))
    rows = segments * frames + int(output_frames(num_frames(validation.num_samples)).sum())
    return 4 * channels * rows


class CachedFeatures:
    """The features of the training and the validation split, in the run folder."""

    def __init__(
        self,
        settings: Settings,
        run_dir: str | os.PathLike,
        network: tuple[Network, Variables],
        train: Source,
        validation: Source,
        mesh: Mesh,
        digest: str,
    ):
        """network: as it is before the training; digest: of the model that it started from."""
        self.settings, self.mesh = settings, mesh
        self.network, self.variables = network
        self.folder = path_of(run_dir) / FEATURES
        self.recipe = stepping.recipe_of(settings, mesh)
        self.train = TrainFeatures(
            self.folder / "train",
            train,
            stepping.segmentation_of(settings),
            self.recipe,
            self.variables,
            digest,
        )
        evaluate = settings.evaluate
        cut = evaluation.cut_for(
            validation.index,
            evaluate.seconds(settings.segment_seconds),
            settings.shortest_segment_seconds,
            settings.model.count_padding,
        )
        place = self.folder / "validation"
        self.validation = ValidationFeatures(
            place, validation, cut, self.recipe, self.variables, digest
        )

    @property
    def _num_devices(self) -> int | None:
        return self.settings.num_devices or None

    def compute(self) -> None:
        """Computes what is missing; all processes come here."""
        size, devices = self.settings.evaluate.batch_size, self._num_devices
        self.train.compute(self.network, self.variables, size or 64, devices)
        self.validation.compute(self.variables, size, devices)

    def stepper(self, soft_labels: SoftLabels | None, local_batch: int) -> Stepper:
        """Makes the steps that `stepping.stepper` makes of the audio, from the features."""
        order = stepping.order_of(self.settings, local_batch)
        segmentation = self.train.segmentation
        entries = partial(batches.train_entries, self.train.source.index, segmentation, **order)

        def feed(step: int):
            found = entries(start_step=step)
            return self.train.batches(found, soft_labels, self.settings.alpha)

        return Stepper(train_program(self.network, self.recipe, self.mesh), feed, self.mesh)

    def validate(self, variables: Variables) -> float:
        """mAP of the validation split."""
        classifier = variables.params["classifier"]
        scores = self.validation.scores(classifier, self._num_devices)
        return evaluation.mean_average_precision(scores, self.validation.source.index)

    def forget(self) -> None:
        """Deletes the features; all processes come here when the training is over."""
        parallel.wait_for_all(f"features used {self.folder}")
        if jax.process_index() == 0:
            remove_tree(self.folder, ignore_errors=True)
