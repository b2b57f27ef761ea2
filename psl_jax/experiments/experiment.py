"""One experiment: its stages in order, each resumable, finished ones skipped."""

import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
import numpy as np

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.segment_loader import Batch, Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.experiments import sanity_notes, stepping
from psl_jax.experiments.averaging import average
from psl_jax.experiments.run_folder import RunFolder
from psl_jax.experiments.soft_label_stage import SoftLabelStage
from psl_jax.networks.mobilenetv2 import Network, Variables, create, num_parameters
from psl_jax.networks.trained_model import Model
from psl_jax.reporting import run_page
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.run_files import CHECKPOINTS, LABEL_QUALITY, NOTES
from psl_jax.scoring import evaluation
from psl_jax.scoring.scorer import Scorer
from psl_jax.training import frozen_features
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loop import LoopSettings, loop_settings, schedule_of, train
from psl_jax.training.step import init_state, train_program
from psl_jax.training.stepper import Stepper
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model

_MOST_OF_MEMORY = 0.5  # of the machine's, that the features of a frozen network may take

# What stages make that later ones, or people, read: looked at by every start.
_MADE = {
    "relabel": (LABEL_QUALITY,),
    "average": (f"{orbax_folder.MODEL_FOLDER}/{orbax_folder.MODEL_FILE}",),
    "evaluate": (evaluation.METRICS, evaluation.SCORES, evaluation.PER_CLASS),
}


class Experiment:
    """The stages relabel, train, average, evaluate and report of one run folder.

    `check` looks whether they can be run, and writes nothing; `run` runs them.
    """

    def __init__(
        self,
        settings: Settings,
        run_dir: str | os.PathLike,
        data_dir: str,
        teacher: str | os.PathLike | None = None,
        afresh: bool = False,
        start: str | os.PathLike | None = None,
    ):
        """data_dir holds the prepared data; teacher overrides `settings.teacher`.

        start: the run folder of another experiment, which may yet have to be trained; it overrides
        `settings.init_from`, and `settings` have the form of its network (see `stepping.alike`).
        afresh: what the run folder holds does not count, and is deleted when the run begins.
        """
        settings = settings if start else stepping.with_start(settings)
        self.settings, self.data_dir, self._start_folder = settings, data_dir, start
        self.run_dir = path_of(run_dir)
        self.segmentation = stepping.segmentation_of(settings)
        self.mesh = parallel.data_mesh(settings.num_devices or None)
        self.folder = RunFolder(self.run_dir, settings, afresh)
        self.notes: list[str] = []
        self._sources: dict[str, Source] = {}
        self.label_stage = SoftLabelStage(
            settings,
            self.folder,
            self.segmentation,
            teacher or settings.teacher,
            lambda: self.source(settings.data.train_split),
        )

    def check(self, last_stage: str | None = None) -> None:
        """Opens all that the stages up to `last_stage` need.

        Raises UserError for what cannot work, naming the setting, and OtherRunError where the run
        folder was made with something else.
        """
        self.folder.check_settings()
        data = self.settings.data
        splits = {"train_split": data.train_split}
        if last_stage != "relabel":
            splits["validation_split"] = data.validation_split
        if last_stage in (None, "evaluate", "report"):
            splits["eval_split"] = data.eval_split
        for setting, split in splits.items():
            self._open(setting, split)
        indices = {name: self.source(split).index for name, split in splits.items()}
        train = indices["train_split"]
        for setting, index in indices.items():
            if index.classes != train.classes:
                raise UserError(
                    f"config.data.{setting}: split {index.split!r} has other classes than split "
                    f"{train.split!r}"
                )
        stepping.check_output(self.settings, indices)
        _ = self._local_batch  # raises where it does not divide over the devices
        stepping.recipe_of(self.settings, self.mesh)
        _ = self.label_stage.is_stored  # raises where a teacher in the step cannot do it
        self.label_stage.check(before_it_is_trained=True)
        self._check_start(before_it_is_trained=True)
        streamed = self.source(train.split).is_streamed and not self._keeps_features
        order = stepping.order_of(self.settings, self._local_batch, streamed)
        self.folder.check_order(order.description)
        self.notes = sanity_notes.before_training(
            self.settings,
            self.loop.max_steps,
            train,
            indices.get("validation_split"),
            indices.get("eval_split"),
        ) + sanity_notes.of_devices(
            parallel.platform_of(self.mesh), self.batch_size, self.mesh.size
        )

    def _check_start(self, before_it_is_trained: bool = False) -> None:
        """Raises OtherRunError where the run did not start from the model that is given now."""
        try:
            digest = self._start.digest if self._start else ""
        except UserError:
            if before_it_is_trained and self._start_folder:
                return  # it is still to be trained
            raise
        self.folder.check_start(digest, self.settings.init_from or "no config.init_from")

    def _open(self, setting: str, split: str) -> None:
        """Opens a split; other processes wait for the first one, which may have to index it."""
        what = f"{self.settings.name} open {setting}"
        try:
            index = parallel.run_after_first_process(what, lambda: self.source(split)).index
        except UserError as error:
            raise UserError(f"config.data.{setting} is {split!r}: {error}") from error
        self.folder.check_data(split, index)

    @property
    def bytes_to_write(self) -> int:
        """About how much disk the stages that are not finished take."""
        finished, size = self.folder.finished, 0
        if "train" not in finished:  # parameters and Adam's moments, float32
            kept = self.settings.train.best_checkpoints + 2
            size += kept * 3 * 4 * num_parameters(self._fresh_network[1])
        return size if "relabel" in finished else size + self.label_stage.bytes_to_write

    @property
    def rough_seconds(self) -> float:
        """About how long the whole training takes; 0 where nothing is known of the devices."""
        if parallel.platform_of(self.mesh) != "cpu":
            return 0.0
        audio = self.loop.max_steps * self.batch_size * self.settings.segment_seconds
        if self._keeps_features:  # one pass without gradients
            validation = self.source(self.settings.data.validation_split).index
            audio = self.train_segments * self.settings.segment_seconds / 3
            audio += validation.hours * 3600 / 3
        return sanity_notes.rough_seconds(audio, self.settings.model.width, os.cpu_count() or 1)

    def run(self, last_stage: str | None = None) -> None:
        """Runs what is not finished yet, up to `last_stage` or to the end; after `check`."""
        self.label_stage.check()
        self._check_start()
        self.folder.begin()
        stages = {
            "relabel": self._relabel,
            "train": self._train,
            "average": self._average,
            "evaluate": self._evaluate,
            "report": self._report,
        }
        for name, stage in stages.items():
            if name == "relabel" and not self.label_stage.is_stored:
                if name == last_stage and self.label_stage.is_used:
                    return  # the teacher labels in the training
                continue
            if name not in self.folder.finished or name == "report" or self._is_damaged(name):
                start = time.perf_counter()
                stage()
                self.folder.finish(name, time.perf_counter() - start, _MADE.get(name, ()))
            if name == last_stage:
                return

    def _is_damaged(self, stage: str) -> bool:
        """Whether files of a finished stage are gone or others; processes find the same."""
        damaged = self.folder.damaged(stage)
        if stage == "relabel" and "train" not in self.folder.finished and self.label_stage.lacks:
            damaged.append(self.label_stage.directory.name)
        for name in damaged:
            print(f"{self.run_dir / name} is missing or damaged: {stage} is done again")
        # Nobody repairs a file before everybody has looked at it.
        parallel.wait_for_all(f"{self.settings.name} look at {stage}")
        return bool(damaged)

    def source(self, split: str) -> Source:
        """A split of the data."""
        if split not in self._sources:
            streamed = self.settings.data.streamed
            self._sources[split] = Source.open(self.data_dir, split, streamed)
        return self._sources[split]

    @property
    def train_index(self) -> ClipIndex:
        """Of the clips that are trained on."""
        return self.source(self.settings.data.train_split).index

    @property
    def train_segments(self) -> int:
        """How many segments an epoch has."""
        return int(self.segmentation.counts(self.train_index.num_samples).sum(dtype=np.int64))

    @cached_property
    def _start(self) -> Model | None:
        """The finished model that is started from."""
        settings = self.settings
        return stepping.load_start(settings, self._start_folder) if settings.init_from else None

    @cached_property
    def _fresh_network(self) -> tuple[Network, Variables]:
        """With random arrays, whatever it starts from."""
        classes = self.source(self.settings.data.train_split).index.num_classes
        model = self.settings.model
        network, variables = create(
            classes, model.width, model.dropout, self.settings.seed, model.output
        )
        return network, variables

    @cached_property
    def _network(self) -> tuple[Network, Variables]:
        network, variables = self._fresh_network
        if self._start:
            output = self.settings.model.output
            classes = self.train_index.classes
            variables = stepping.started(variables, self._start, classes, output)
        return network, variables

    def soft_labels(self) -> SoftLabels | None:
        """The stored ones that it is trained on; None where it has weak ones or makes its own."""
        return self.label_stage.open() if self.label_stage.is_stored else None

    def _relabel(self) -> None:
        self.label_stage.make(self.settings.num_devices or None)

    def _train(self) -> None:
        source = self.source(self.settings.data.train_split)
        train_settings, settings = self.settings.train, self.loop
        if self._keeps_features:
            stepper, validate = self._on_features(source)
        else:
            stepper, validate = self._stepper(source), self._validate
        with TrainingCheckpoints(
            self.run_dir / CHECKPOINTS, train_settings.best_checkpoints
        ) as kept:
            train(
                stepper,
                init_state(self._network[1]),
                mesh=self.mesh,
                schedule=schedule_of(train_settings, settings.max_steps),
                settings=settings,
                validate=validate,
                checkpoints=kept,
                run_dir=os.fspath(self.run_dir),
                description=self.settings.name,
            )

    @cached_property
    def _keeps_features(self) -> bool:
        """Whether a frozen network's features are computed once and kept in memory."""
        if not stepping.features_stay_the_same(self.settings):
            return False
        channels = len(self._fresh_network[1].params["classifier"]["kernel"])
        validation = self.source(self.settings.data.validation_split).index
        size = frozen_features.num_bytes(self.segmentation, channels, self.train_index, validation)
        memory = parallel.machine_bytes()
        return size * jax.process_count() < _MOST_OF_MEMORY * memory

    def _on_features(self, source: Source) -> tuple[Stepper, Callable[[Variables], float]]:
        """What trains and validates the classifier on the features of the frozen network."""
        settings, (network, variables) = self.settings, self._network
        recipe, size = stepping.recipe_of(settings, self.mesh), settings.evaluate.batch_size
        devices = settings.num_devices or None
        features = frozen_features.of_segments(
            network, variables, recipe, source, self.segmentation, size or 64, devices
        )
        validation = self.source(settings.data.validation_split)
        scorer = frozen_features.FrozenScorer(
            variables, recipe, validation, self._cut(validation), size, devices
        )
        segments = Segments(source, self.segmentation, self.soft_labels(), settings.alpha)
        order = stepping.order_of(settings, self._local_batch, is_streamed=False)

        def feed(step: int) -> Iterator[Batch]:
            return frozen_features.train_batches(features, segments, order, step)

        def validate(variables: Variables) -> float:
            scores = scorer.scores(variables.params["classifier"])
            return evaluation.mean_average_precision(scores, validation.index)

        return Stepper(train_program(network, recipe, self.mesh), feed, self.mesh), validate

    @property
    def batch_size(self) -> int:
        """Segments a step, of all devices."""
        size = self.settings.train.batch_size
        multiple = stepping.batch_multiple(self.settings, self.mesh.size)
        return sanity_notes.fitting_batch(size, self.train_segments, multiple)

    @property
    def _local_batch(self) -> int:
        return parallel.local_batch_size(self.batch_size, self.mesh)

    @property
    def loop(self) -> LoopSettings:
        """When the training does what."""
        own_segments = -(-self.train_segments // jax.process_count())
        steps = own_segments / self._local_batch  # a fraction: batches straddle epochs
        return loop_settings(self.settings.train, steps, self.batch_size)

    def _stepper(self, source: Source) -> Stepper:
        in_step = self.label_stage.is_used and not self.label_stage.is_stored
        return stepping.stepper(
            self.settings,
            self._network[0],
            source,
            self.soft_labels(),
            self.mesh,
            self._local_batch,
            self.label_stage.model_in_step() if in_step else None,
        )

    def _validate(self, variables: Variables) -> float:
        source = self.source(self.settings.data.validation_split)
        scores = self._score(variables, source, None)
        return evaluation.mean_average_precision(scores, source.index)

    def _score(self, variables: Variables, source: Source, description: str | None):
        model, devices = self.settings.model, self.settings.num_devices or None
        scorer = Scorer(
            variables,
            self.settings.frontend,
            model.dtype,
            devices,
            model.count_padding,
            output=model.output,
        )
        size = self.settings.evaluate.batch_size
        return evaluation.score_clips(scorer, source, self._cut(source), size, description)

    def _cut(self, source: Source) -> evaluation.AnySegmentation:
        settings = self.settings
        seconds = settings.evaluate.seconds(settings.segment_seconds)
        shortest, padded = settings.shortest_segment_seconds, settings.model.count_padding
        return evaluation.segmentation_for(source.index, seconds, shortest, padded)

    def _average(self) -> None:
        classes = self.source(self.settings.data.train_split).index.classes
        average(self.run_dir, self.settings, classes)

    def _evaluate(self) -> None:
        model = load_model(self.run_dir)
        source = self.source(self.settings.data.eval_split)
        name = f"evaluate {self.settings.name}"
        scores = self._score(model.variables, source, name)
        if jax.process_index() == 0:
            more = {"averaged_steps": model.info.origin["averaged_steps"]}
            evaluation.write_results(self.run_dir, source.index, scores, more)

    def _report(self) -> None:
        if jax.process_index() == 0:
            files.write_json(self.run_dir / NOTES, self._all_notes())
            run_page.write_run_report(self.run_dir, config_lib.to_dict(Settings()))

    def _all_notes(self) -> list[str]:
        path = self.run_dir / LABEL_QUALITY
        of_labels = sanity_notes.of_labels(files.read_json(path)) if path.exists() else []
        return [*self.notes, *of_labels]

    def summary(self) -> dict[str, Any]:
        """The row of this experiment in a suite's results."""
        metrics = files.read_json(self.run_dir / evaluation.METRICS)
        done = self.folder.finished
        return {
            "name": self.settings.name,
            **metrics,
            "label": self.settings.labels,
            "segment_seconds": self.settings.segment_seconds,
            "hop_seconds": self.settings.hop_seconds,
            "train_clips": len(self.train_index),
            "train_segments": self.train_segments,
            "seed": self.settings.seed,
            "seconds": round(sum(stage["seconds"] for stage in done.values()), 1),
            "notes": self._all_notes(),
        }
