"""One experiment: its stages in order, each resumable, finished ones skipped."""

import os
import pathlib
import time
from functools import cached_property, partial
from typing import Any

import jax

from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.config import Settings
from psl_jax.data import batches
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.opening import open_source
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import Source
from psl_jax.model.frontend import LogMel
from psl_jax.model.mobilenetv2 import Network, Variables, create
from psl_jax.model.model import Model, ModelInfo
from psl_jax.reporting import pages
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_folder import CONFIG, LABEL_QUALITY, STAGES_DONE
from psl_jax.runtime.settings import Kind
from psl_jax.scoring import evaluation, relabeling
from psl_jax.scoring.scorer import Scorer
from psl_jax.training import resident
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loop import LoopSettings, Schedule, train
from psl_jax.training.settings import TrainSettings
from psl_jax.training.step import Recipe, init_state, train_program
from psl_jax.training.stepper import ResidentStepper, Stepper, StreamedStepper
from psl_jax.weights import orbax_folder
from psl_jax.weights.load import load_model

DATA = "data.json"  # which clips the run is of


class Experiment:
    """The stages relabel, train, average, evaluate and report of one run folder.

    Raises UserError when the folder was made with other settings, or of other data.
    """

    def __init__(
        self,
        settings: Settings,
        run_dir: str | os.PathLike,
        data_dir: str,
        teacher: str | os.PathLike | None = None,
    ):
        """data_dir holds the prepared data; teacher overrides `settings.teacher`."""
        self.settings, self.data_dir = settings, data_dir
        self.run_dir = pathlib.Path(run_dir)
        self.teacher = teacher or settings.teacher
        self.segmentation = Segmentation(settings.segment_seconds)
        self.mesh = parallel.data_mesh(settings.num_devices or None)
        self._sources: dict[str, Source] = {}
        self._keep_settings()

    def run(self, last_stage: str | None = None) -> None:
        """Runs what is not finished yet, up to `last_stage` or to the end."""
        stages = {
            "relabel": self._relabel,
            "train": self._train,
            "average": self._average,
            "evaluate": self._evaluate,
            "report": self._report,
        }
        for name, stage in stages.items():
            if name == "relabel" and not self._uses_soft_labels:
                continue
            if name not in self.finished or name == "report":
                start = time.perf_counter()
                stage()
                self._finish(name, time.perf_counter() - start)
            if name == last_stage:
                return

    @property
    def finished(self) -> dict[str, Any]:
        """Finished stages with the seconds that the last call spent on each."""
        path = self.run_dir / STAGES_DONE
        return files.read_json(path) if path.exists() else {}

    def _finish(self, name: str, seconds: float) -> None:
        if jax.process_index() == 0:
            done = self.finished | {name: {"seconds": round(seconds, 2)}}
            files.write_json(self.run_dir / STAGES_DONE, done)
        parallel.wait_for_all(f"{self.settings.name} {name}")

    def _keep_settings(self) -> None:
        """Writes config.json, or compares with the one that is there.

        Raises UserError naming the settings in which the folder differs, where they are part of
        what was computed. Others may change; what they concern is done anew.
        """
        path, wanted = self.run_dir / CONFIG, files.as_json(config_lib.to_dict(self.settings))
        found = files.read_json(path) if path.exists() else None
        done = self.finished
        if found is not None:
            differing = config_lib.changed(found, wanted)
            refused = differing[Kind.SCIENTIFIC]
            if "train" not in done:  # validation evaluates likewise, and chooses the checkpoints
                refused += [n for n in differing[Kind.EVALUATION] if n.startswith("evaluate.")]
            if refused:
                raise _made_with_other_settings(self.run_dir, refused, found, wanted)
            if differing[Kind.EVALUATION]:
                done = {name: done[name] for name in done if name not in ("evaluate", "report")}
        parallel.wait_for_all(f"{self.settings.name} settings read")
        if jax.process_index() == 0 and found != wanted:
            files.write_json(path, wanted)
            if done != self.finished:
                files.write_json(self.run_dir / STAGES_DONE, done)
        parallel.wait_for_all(f"{self.settings.name} settings kept")

    def source(self, split: str) -> Source:
        """A split of the data. Raises UserError where the run was begun with other clips of it."""
        if split not in self._sources:
            source = open_source(self.data_dir, split, packed=self._is_packed)
            self._keep_data(split, source.index)
            self._sources[split] = source
        return self._sources[split]

    @property
    def _is_packed(self) -> bool:
        return self.settings.data.corpus == "packed"

    def _keep_data(self, split: str, index: ClipIndex) -> None:
        path = self.run_dir / DATA
        known = files.read_json(path) if path.exists() else {}
        now: dict[str, Any] = {
            "clips": len(index),
            "ids_sha256": index.ids_sha256,
            "classes_digest": files.json_digest(list(index.classes)),
        }
        before = known.get(split, now)
        if before != now:
            raise UserError(
                f"{self.run_dir} was made with other data: split {split!r} had {before['clips']} "
                f"clips (SHA-256 of their ids {before['ids_sha256'][:12]}…), and has "
                f"{now['clips']} ({now['ids_sha256'][:12]}…) of "
                f"{'the same' if before['classes_digest'] == now['classes_digest'] else 'other'} "
                "classes now. Give another --workdir, or delete the folder to start afresh."
            )
        if split not in known and jax.process_index() == 0:
            files.write_json(path, known | {split: now})

    @cached_property
    def _network(self) -> tuple[Network, Variables]:
        classes = self.source(self.settings.data.train_split).index.num_classes
        model = self.settings.model
        return create(classes, model.width, model.dropout, self.settings.seed)

    def _scorer(self, variables: Variables, logmel: LogMel) -> Scorer:
        dtype, num_devices = self.settings.model.dtype, self.settings.num_devices or None
        return Scorer(variables, logmel, dtype, num_devices)

    @property
    def _uses_soft_labels(self) -> bool:
        """With alpha = 0 the weak labels are the whole target: a teacher would work for nothing."""
        return self.settings.labels == "soft" and self.settings.alpha > 0

    @property
    def _soft_labels_dir(self) -> pathlib.Path:
        return self.run_dir / "soft_labels"

    def _relabel(self) -> None:
        model = self._load_teacher()
        source = self.source(self.settings.data.train_split)
        relabeling.relabel(
            self._scorer(model.variables, model.info.logmel),
            source,
            self.segmentation,
            self._soft_labels_dir,
            teacher_digest=model.digest,
            batch_size=self.settings.relabel.batch_size,
            file_format="npz" if self._is_packed else "tfrecord",
        )
        parallel.wait_for_all("relabel")
        if jax.process_index() == 0:
            quality = relabeling.label_quality(self._open_labels(), source.index, self.segmentation)
            files.write_json(self.run_dir / LABEL_QUALITY, quality)

    def _load_teacher(self) -> Model:
        if not self.teacher:
            raise UserError(
                "soft labels need a teacher: give a finished run folder, such as "
                "--config.teacher=runs/teacher"
            )
        model = load_model(self.teacher)
        classes = self.source(self.settings.data.train_split).index.classes
        if model.classes != classes:
            raise UserError(
                f"the teacher {self.teacher} knows {len(model.classes)} classes "
                f"({', '.join(model.classes[:3])}, ...), the data has {len(classes)} "
                f"({', '.join(classes[:3])}, ...); they must be the same, in the same order"
            )
        return model

    def _open_labels(self) -> SoftLabels:
        index = self.source(self.settings.data.train_split).index
        return SoftLabels.open(self._soft_labels_dir, index, self.segmentation)

    def _train(self) -> None:
        source = self.source(self.settings.data.train_split)
        steps = batches.steps_per_epoch(
            source.index, self.segmentation, self._local_batch, jax.process_count()
        )
        train_settings = self.settings.train
        settings = loop_settings(train_settings, steps)
        with TrainingCheckpoints(
            self.run_dir / "checkpoints", train_settings.best_checkpoints
        ) as kept:
            train(
                self._stepper(source),
                init_state(self._network[1]),
                mesh=self.mesh,
                schedule=schedule_of(train_settings, settings.max_steps),
                settings=settings,
                validate=self._validate,
                checkpoints=kept,
                run_dir=os.fspath(self.run_dir),
                description=self.settings.name,
            )

    @property
    def _local_batch(self) -> int:
        return parallel.local_batch_size(self.settings.train.batch_size, self.mesh)

    def _stepper(self, source: Source) -> Stepper:
        """What makes the training's steps, streamed or resident."""
        config, recipe = self.settings, recipe_of(self.settings)
        soft_labels = self._open_labels() if self._uses_soft_labels else None
        order: dict[str, Any] = {
            "batch_size": self._local_batch,
            "seed": config.seed,
            "sampling": config.train.sampling,
            "window_clips": config.train.window_clips,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }
        if not config.train.resident:

            def feed_batches(step: int):
                return batches.train_batches(
                    source,
                    self.segmentation,
                    start_step=step,
                    soft_labels=soft_labels,
                    alpha=config.alpha,
                    **order,
                )

            program = train_program(self._network[0], recipe, self.mesh)
            return StreamedStepper(program, feed_batches, self.mesh)

        def feed_entries(step: int):
            return batches.train_entries(source.index, self.segmentation, start_step=step, **order)

        return ResidentStepper(
            resident.resident_program(
                self._network[0], recipe, self.segmentation, config.alpha, self.mesh
            ),
            partial(resident.load, source, self.segmentation, soft_labels, self.mesh),
            feed_entries,
            self.mesh,
            # A dispatch ends where something is logged anyway.
            at_once=min(config.train.steps_per_dispatch, config.train.log_every),
        )

    def _validate(self, variables: Variables) -> float:
        source = self.source(self.settings.data.validation_split)
        scores = self._score(variables, source, None)
        return evaluation.mean_average_precision(scores, source.index)

    def _score(self, variables: Variables, source: Source, description: str | None):
        seconds = self.settings.evaluate.seconds(self.settings.segment_seconds)
        segmentation = evaluation.evaluation_segmentation(source.index, seconds)
        scorer = self._scorer(variables, self.settings.frontend)
        size = self.settings.evaluate.batch_size
        return evaluation.score_clips(scorer, source, segmentation, size, description)

    def _average(self) -> None:
        with TrainingCheckpoints(
            self.run_dir / "checkpoints", self.settings.train.best_checkpoints
        ) as kept:
            variables, steps = kept.average_best()
        index = self.source(self.settings.data.train_split).index
        info = ModelInfo(
            classes=index.classes,
            width=self.settings.model.width,
            segment_seconds=self.settings.segment_seconds,
            logmel=self.settings.frontend,
            name=self.settings.name,
            origin={
                "averaged_steps": steps,
                "config_digest": files.json_digest(config_lib.to_dict(self.settings)),
            },
        )
        folder = self.run_dir / orbax_folder.MODEL_FOLDER
        orbax_folder.save_model(folder, variables, info.as_json())

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
            pages.write_run_report(self.run_dir, config_lib.to_dict(Settings()))

    def summary(self) -> dict[str, Any]:
        """The row of this experiment in a suite's results."""
        metrics = files.read_json(self.run_dir / evaluation.METRICS)
        index = self.source(self.settings.data.train_split).index
        segments = int(self.segmentation.counts(index.num_samples).sum())
        done = self.finished
        return {
            "name": self.settings.name,
            **metrics,
            "label": self.settings.labels,
            "segment_seconds": self.settings.segment_seconds,
            "train_clips": len(index),
            "train_segments": segments,
            "seed": self.settings.seed,
            "seconds": round(sum(stage["seconds"] for stage in done.values()), 1),
        }


def loop_settings(settings: TrainSettings, steps_per_epoch: float) -> LoopSettings:
    """Steps of the training loop, from epochs where the settings speak of epochs."""
    epoch = max(1, round(steps_per_epoch))
    return LoopSettings(
        max_steps=settings.max_steps or max(1, round(settings.epochs * steps_per_epoch)),
        validate_every=min(settings.validate_every, epoch),
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
        patience=settings.patience * epoch,
        batch_size=settings.batch_size,
    )


def schedule_of(settings: TrainSettings, max_steps: int) -> Schedule:
    decays = settings.schedule == "polynomial"
    return Schedule(settings.learning_rate, max_steps if decays else 0, settings.decay_power)


def recipe_of(settings: Settings) -> Recipe:
    return Recipe(settings.frontend, settings.augment, settings.model.dtype, settings.seed)


def _made_with_other_settings(
    folder: pathlib.Path, names: list[str], found: dict[str, Any], wanted: dict[str, Any]
) -> UserError:
    lines = [
        f"  {name}: {config_lib.stored_setting(found, name)!r} there, "
        f"{config_lib.stored_setting(wanted, name)!r} now"
        for name in names[:10]
    ]
    return UserError(
        f"{folder} was made with other settings:\n"
        + "\n".join(lines)
        + "\nGive another --workdir, or delete the folder to start afresh."
    )
