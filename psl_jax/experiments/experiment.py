"""One experiment: its stages in order, each resumable, finished ones skipped."""

import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.corrections import Corrections
from psl_jax.data.segment_loader import Segments
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.data.training_order import TrainingOrder
from psl_jax.experiments import sanity_notes, setting_checks, training_steps
from psl_jax.experiments.run_folder import CORRECTIONS, START, RunFolder
from psl_jax.experiments.soft_label_stage import SoftLabelStage
from psl_jax.networks.architecture import Network, Variables
from psl_jax.networks.trained_model import Model, ModelInfo
from psl_jax.reporting import run_page
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.run_files import CHECKPOINTS, LABEL_QUALITY, NOTES, Stage
from psl_jax.scoring import evaluation, metrics
from psl_jax.scoring.scorer import Scorer
from psl_jax.tagging import event_evaluation
from psl_jax.training import frozen_features
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loggers import check_loggers
from psl_jax.training.loop import train
from psl_jax.training.settings import TrainSettings
from psl_jax.training.step import init_state
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model

_MOST_OF_MEMORY = 0.5  # of the machine's, that the features of a frozen network may take

# What stages make that later ones, or people, read: looked at by every start.
_MADE = {
    Stage.RELABEL: (LABEL_QUALITY,),
    Stage.AVERAGE: (f"{orbax_folder.MODEL_FOLDER}/{orbax_folder.MODEL_FILE}",),
    Stage.EVALUATE: (evaluation.METRICS, evaluation.SCORES, evaluation.PER_CLASS),
}


class Experiment:
    """The stages relabel, train, average, evaluate and report of one run folder.

    `check` looks whether they can be run, and writes nothing; `run` runs them.
    """

    def __init__(
        self,
        settings: Settings,
        run_dir: str | os.PathLike[str],
        *,
        data_dir: str,
        teacher: str | os.PathLike[str] | None = None,
        start: Model | None = None,
        afresh: bool = False,
    ):
        """data_dir holds the prepared data; teacher overrides `settings.teacher`.

        start: the model of `settings.init_from`, which is read here where it is not given; its
        network's form is taken over.
        afresh: what the run folder holds does not count, and is deleted when the run begins.
        """
        if start is None and settings.init_from:
            start = training_steps.load_start(settings.init_from)
        if start is not None:
            settings = settings.with_network(start.info)
        self.settings, self.data_dir, self._start = settings, data_dir, start
        self.run_dir = path_of(run_dir)
        self.segmentation = setting_checks.training_segmentation(settings)
        self.mesh = parallel.data_mesh()
        self.folder = RunFolder(self.run_dir, settings, afresh=afresh)
        self.notes: list[str] = []
        self._sources: dict[tuple[str, bool], Source] = {}  # by split, and whether it is corrected
        self._corrections = Corrections.read(settings.corrections) if settings.corrections else None
        self.label_stage = SoftLabelStage(
            settings,
            self.folder,
            segmentation=self.segmentation,
            teacher=teacher or settings.teacher,
            open_source=lambda: self.source(settings.data.train_split, is_corrected=False),
        )

    def check(self, last_stage: Stage = Stage.REPORT) -> None:
        """Opens all that the stages up to `last_stage` need.

        Raises UserError for what cannot work, naming the setting, and OtherRunError where the run
        folder was made with something else.
        """
        self.folder.check_settings()
        corrections = self._corrections.digest if self._corrections else ""
        self.folder.bind(CORRECTIONS, corrections, self.settings.corrections)
        start = self._start.digest if self._start else ""
        self.folder.bind(START, start, self.settings.init_from)
        names = ["train_split"]
        if last_stage is not Stage.RELABEL:
            names.append("validation_split")
        if last_stage.has_results:
            names.append("eval_split")
        indices = {name: self._open(name) for name in names}
        train = indices["train_split"]
        for setting, index in indices.items():
            if index.classes != train.classes:
                raise UserError(
                    f"config.data.{setting}: split {index.split!r} has other classes than split "
                    f"{train.split!r}"
                )
        if self.settings.evaluate.events and last_stage.has_results:
            event_evaluation.check_events(indices["eval_split"])
        setting_checks.check(self.settings, indices)
        check_loggers(self.settings.train.loggers)
        self.label_stage.check(before_it_is_trained=True)
        self.folder.bind_order(self._order.description)
        notes = sanity_notes.before_training(self.settings, indices, steps=self.loop.max_steps)
        self.notes = list(notes)
        if self._corrections:
            by_split = {index.split: index for index in indices.values()}
            self.notes[:0] = self._corrections.describe_problems(list(by_split.values()))

    def _open(self, setting: str) -> ClipIndex:
        """Opens a split; other processes wait for the first one, which may have to index it."""
        what, split = f"{self.settings.name} open {setting}", getattr(self.settings.data, setting)
        try:
            source = parallel.run_after_first_process(
                what, lambda: self.source(split, is_corrected=False)
            )
        except UserError as error:
            raise UserError(f"config.data.{setting} is {split!r}: {error}") from error
        self.folder.bind_data(split, source.index)
        return self.source(split).index

    def run(self, last_stage: Stage = Stage.REPORT) -> None:
        """Runs what is not finished yet, up to `last_stage` or to the end; after `check`."""
        self.label_stage.check()
        self.folder.begin()
        if last_stage is Stage.RELABEL and self.settings.teaches_in_step:
            return
        stages: dict[Stage, Callable[[], None]] = {
            Stage.TRAIN: self._train,
            Stage.AVERAGE: self._average,
            Stage.EVALUATE: self._evaluate,
            Stage.REPORT: self._report,
        }
        if self.label_stage.is_stored:
            stages = {Stage.RELABEL: self.label_stage.make} | stages
        for stage, run_stage in stages.items():
            is_finished = stage in self.folder.finished and stage is not Stage.REPORT
            if not is_finished or self._is_damaged(stage):
                start = time.perf_counter()
                run_stage()
                seconds = time.perf_counter() - start
                self.folder.finish(stage, seconds, made=_MADE.get(stage, ()))
            if stage is last_stage:
                return

    def _is_damaged(self, stage: Stage) -> bool:
        """Whether files of a finished stage are gone or others; processes find the same."""
        damaged, is_trained = self.folder.damaged(stage), Stage.TRAIN in self.folder.finished
        if stage is Stage.RELABEL and not is_trained and self.label_stage.lacks_labels:
            damaged.append(self.label_stage.directory.name)
        for name in damaged:
            print(f"{self.run_dir / name} is missing or damaged: {stage} is done again")
        # Nobody repairs a file before everybody has looked at it.
        parallel.wait_for_all(f"{self.settings.name} look at {stage}")
        return bool(damaged)

    def source(self, split: str, *, is_corrected: bool = True) -> Source:
        """A split of the data, with its weak labels corrected."""
        if (split, is_corrected) not in self._sources:
            if is_corrected:
                source = self.source(split, is_corrected=False)
                if self._corrections:
                    source = source.with_index(self._corrections.correct(source.index))
            else:
                source = Source.open(self.data_dir, split, self.settings.data.streamed)
                if not source.index.classes:
                    classes = self.label_stage.teacher_classes()
                    source = source.with_index(source.index.with_classes(classes))
            self._sources[split, is_corrected] = source
        return self._sources[split, is_corrected]

    @property
    def train_index(self) -> ClipIndex:
        """Of the clips that are trained on."""
        return self.source(self.settings.data.train_split).index

    @property
    def train_segments(self) -> int:
        """How many segments an epoch has."""
        return int(self.segmentation.number_segments(self.train_index.num_samples)[-1])

    @cached_property
    def _fresh_network(self) -> tuple[Network, Variables]:
        """With random arrays, whatever it starts from."""
        model = self.settings.model
        how = model.width, model.dropout, self.settings.seed, model.output
        return self.settings.architecture.create(self.train_index.num_classes, *how)

    @cached_property
    def _network(self) -> tuple[Network, Variables]:
        network, variables = self._fresh_network
        if self._start:
            classes = self.train_index.classes
            variables = training_steps.start_variables(
                variables, self._start, classes, self.settings
            )
        return network, variables

    def soft_labels(self) -> SoftLabels | None:
        """The stored ones that it is trained on; None where it has weak ones or makes its own."""
        return self.label_stage.open() if self.label_stage.is_stored else None

    def _train(self) -> None:
        settings = self.settings
        network, variables = self._network
        segments = Segments(
            self.source(settings.data.train_split),
            self.segmentation,
            self.soft_labels(),
            settings.alpha,
            self._corrections,
        )
        validate: Callable[[Variables], float] = self._validate
        features: np.ndarray | None = None
        teacher: Model | None = None
        if self._keeps_features:
            recipe, size = training_steps.make_recipe(settings), settings.evaluate.batch_size
            features = frozen_features.compute_features(
                network, variables, recipe=recipe, segments=segments, batch_size=size or 64
            )
            folded = settings.architecture.fold(variables, settings.model.output)
            split = self.source(settings.data.validation_split)
            validate = frozen_features.make_validation(
                folded, recipe, source=split, cut=self._cut(split), batch_size=size
            )
        elif settings.teaches_in_step:
            teacher = self.label_stage.model_in_step()
        program = training_steps.make_program(
            settings, network, segments=segments, mesh=self.mesh, teacher=teacher
        )
        feed = training_steps.make_feed(settings, segments, order=self._order, features=features)
        with self._open_checkpoints() as checkpoints:
            train(
                init_state(variables),
                program=program,
                feed=feed,
                mesh=self.mesh,
                settings=self.loop,
                validate=validate if self._is_validated else None,
                checkpoints=checkpoints,
                run_dir=os.fspath(self.run_dir),
                description=settings.name,
            )

    @property
    def _is_validated(self) -> bool:
        """Whether there is a validation mAP."""
        return self.source(self.settings.data.validation_split).index.is_labelled

    def _open_checkpoints(self) -> TrainingCheckpoints:
        best = self.settings.train.best_checkpoints
        folder = self.run_dir / CHECKPOINTS
        return TrainingCheckpoints(folder, best, is_validated=self._is_validated)

    @cached_property
    def _keeps_features(self) -> bool:
        """Whether a frozen network's features are computed once and kept in memory."""
        if not setting_checks.has_constant_features(self.settings):
            return False
        of_segments = np.full(self.train_segments, self.segmentation.segment_samples)
        of_clips = self.source(self.settings.data.validation_split).index.num_samples
        num_bytes = frozen_features.num_bytes(
            *self._fresh_network, self.settings.front_end, np.append(of_segments, of_clips)
        )
        memory = parallel.machine_bytes()
        return bool(num_bytes * jax.process_count() < _MOST_OF_MEMORY * memory)

    @property
    def batch_size(self) -> int:
        """Segments a step, of all devices."""
        size = self.settings.train.batch_size
        multiple = setting_checks.batch_multiple(self.settings, self.mesh.size)
        return setting_checks.fitting_batch(size, self.train_segments, multiple=multiple)

    @property
    def _order(self) -> TrainingOrder:
        """The order of the training's segments."""
        settings, source = self.settings, self.source(self.settings.data.train_split)
        return TrainingOrder(
            self.batch_size // jax.process_count(),
            settings.seed,
            sampling=settings.train.sampling,
            streamed=source.is_streamed and not self._keeps_features,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    @property
    def loop(self) -> TrainSettings:
        """When the training does what."""
        local_segments = -(-self.train_segments // jax.process_count())
        local_batch = self.batch_size // jax.process_count()
        steps = local_segments / local_batch  # a fraction: batches straddle epochs
        return self.settings.train.in_steps(steps, self.batch_size)

    def _validate(self, variables: Variables) -> float:
        source = self.source(self.settings.data.validation_split)
        scores = self._score(variables, source)
        return metrics.mean_average_precision(source.index.weak_labels(), scores)

    def _score(
        self, variables: Variables, source: Source, description: str | None = None
    ) -> np.ndarray:
        model = self.settings.model
        scorer = Scorer(
            self.settings.architecture.fold(parallel.to_host(variables), model.output),
            self.settings.front_end,
            dtype=model.dtype,
            count_padding=model.count_padding,
        )
        size = self.settings.evaluate.batch_size
        return evaluation.score_clips(scorer, source, self._cut(source), size, description)

    def _cut(self, source: Source) -> evaluation.AnySegmentation:
        settings = self.settings
        seconds = settings.evaluate.seconds(settings.segment_seconds)
        shortest, padded = settings.shortest_segment_seconds, settings.model.count_padding
        return evaluation.segmentation_for(source.index, seconds, shortest, padded)

    def _average(self) -> None:
        """Writes the mean of the best checkpoints as the run's model; all processes come here."""
        settings = self.settings
        with self._open_checkpoints() as checkpoints:
            variables, steps = checkpoints.average_best()
        info = ModelInfo(
            classes=self.train_index.classes,
            width=settings.model.width,
            network=settings.model.network,
            sample_rate=min(settings.architecture.sample_rate, self.train_index.sample_rate),
            segment_seconds=settings.segment_seconds,
            logmel=settings.frontend,
            name=settings.name,
            output=settings.model.output,
            origin={
                "averaged_steps": steps,
                "config_digest": files.json_digest(config_lib.to_dict(settings)),
            },
        )
        orbax_folder.save_model(self.run_dir / orbax_folder.MODEL_FOLDER, variables, info.as_json())

    def _evaluate(self) -> None:
        model = load_model(self.run_dir)
        source = self.source(self.settings.data.eval_split)
        scores: np.ndarray | None = None
        if source.index.is_labelled:
            scores = self._score(model.variables, source, f"evaluate {self.settings.name}")
        if jax.process_index() == 0:
            events = None
            if self.settings.evaluate.events and scores is not None:
                events = event_evaluation.evaluate_model(model, source)
            more = {"averaged_steps": model.info.origin["averaged_steps"]}
            evaluation.write_results(self.run_dir, source.index, scores, more, events)

    def _report(self) -> None:
        if jax.process_index() == 0:
            files.write_json(self.run_dir / NOTES, self._all_notes())
            run_page.write_run_report(self.run_dir, config_lib.to_dict(Settings()))

    def _all_notes(self) -> list[str]:
        quality = files.find_json(self.run_dir / LABEL_QUALITY)
        return [*self.notes, *(sanity_notes.of_labels(quality) if quality else [])]

    def summary(self) -> dict[str, Any]:
        """The row of this experiment in a suite's results."""
        metrics = files.read_json(self.run_dir / evaluation.METRICS)
        return {
            "name": self.settings.name,
            **metrics,
            "label": self.settings.labels,
            "segment_seconds": self.settings.segment_seconds,
            "hop_seconds": self.settings.hop_seconds,
            "train_clips": len(self.train_index),
            "train_segments": self.train_segments,
            "seed": self.settings.seed,
            "seconds": round(sum(made["seconds"] for made in self.folder.finished.values()), 1),
            "notes": self._all_notes(),
        }
