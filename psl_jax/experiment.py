"""One experiment: its stages in order, each resumable, finished ones skipped."""

import os
import pathlib
import time
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import jax
from ml_collections import ConfigDict

from psl_jax import config as config_lib
from psl_jax.audio.segments import Segmentation
from psl_jax.data import batches
from psl_jax.data.opening import open_source
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.sources import Source
from psl_jax.model.augmentation import Augmentation
from psl_jax.model.frontend import LogMel
from psl_jax.model.mobilenetv2 import Network, Variables, create
from psl_jax.model.model import Model, ModelInfo
from psl_jax.reporting import pages
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_folder import CONFIG, LABEL_QUALITY, STAGES_DONE
from psl_jax.scoring import evaluation, relabeling
from psl_jax.scoring.scorer import Scorer
from psl_jax.training import resident
from psl_jax.training.checkpoints import TrainingCheckpoints
from psl_jax.training.loop import LoopSettings, Schedule, train
from psl_jax.training.step import Recipe, init_state, train_program
from psl_jax.weights import orbax_folder
from psl_jax.weights.load import load_model

HOW_STEPS_ARE_MADE = "train.steps_per_dispatch"


class Experiment:
    """The stages relabel, train, average, evaluate and report of one run folder.

    Raises UserError when the folder was made with other settings.
    """

    def __init__(
        self,
        config: ConfigDict,
        run_dir: str | os.PathLike,
        data_dir: str,
        teacher: str | os.PathLike | None = None,
    ):
        """data_dir holds the prepared data; teacher overrides `config.teacher`."""
        self.config, self.data_dir = config, data_dir
        self.run_dir = pathlib.Path(run_dir)
        self.teacher = teacher or config.teacher
        self.segmentation = Segmentation(config.segment_seconds)
        self.mesh = parallel.data_mesh(config.num_devices or None)
        self.logmel = LogMel(**config.frontend.to_dict())
        self._sources: dict[str, Source] = {}
        _keep_config(self.run_dir / CONFIG, config)

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
            if name == "relabel" and self.config.labels != "soft":
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
        parallel.wait_for_all(f"{self.config.name} {name}")

    def source(self, split: str) -> Source:
        if split not in self._sources:
            self._sources[split] = open_source(
                self.data_dir, split, packed=self.config.data.corpus == "packed"
            )
        return self._sources[split]

    @cached_property
    def _network(self) -> tuple[Network, Variables]:
        classes = self.source(self.config.data.train_split).index.num_classes
        return create(classes, self.config.model.width, self.config.model.dropout, self.config.seed)

    def _scorer(self, variables: Variables, logmel: LogMel) -> Scorer:
        dtype, num_devices = self.config.model.dtype, self.config.num_devices or None
        return Scorer(variables, logmel, dtype, num_devices)

    @property
    def _soft_labels_dir(self) -> pathlib.Path:
        return self.run_dir / "soft_labels"

    def _relabel(self) -> None:
        model = self._load_teacher()
        source = self.source(self.config.data.train_split)
        relabeling.relabel(
            self._scorer(model.variables, model.info.logmel),
            source,
            self.segmentation,
            self._soft_labels_dir,
            teacher_digest=model.digest,
            batch_size=self.config.evaluate.batch_size,
            file_format="npz" if self.config.data.corpus == "packed" else "tfrecord",
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
        classes = self.source(self.config.data.train_split).index.classes
        if model.classes != classes:
            raise UserError(
                f"the teacher {self.teacher} knows {len(model.classes)} classes "
                f"({', '.join(model.classes[:3])}, ...), the data has {len(classes)} "
                f"({', '.join(classes[:3])}, ...); they must be the same, in the same order"
            )
        return model

    def _open_labels(self) -> SoftLabels:
        index = self.source(self.config.data.train_split).index
        return SoftLabels.open(self._soft_labels_dir, index, self.segmentation)

    def _train(self) -> None:
        config, source = self.config, self.source(self.config.data.train_split)
        steps = batches.steps_per_epoch(
            source.index, self.segmentation, self._local_batch, jax.process_count()
        )
        settings = loop_settings(config, steps)
        program, feed = self._program_and_feed(source)
        with TrainingCheckpoints(
            self.run_dir / "checkpoints", config.train.best_checkpoints
        ) as kept:
            train(
                program,
                init_state(self._network[1]),
                feed,
                mesh=self.mesh,
                schedule=schedule_of(config, settings.max_steps),
                settings=settings,
                validate=self._validate,
                checkpoints=kept,
                run_dir=os.fspath(self.run_dir),
                description=config.name,
                steps_per_call=config.train.steps_per_dispatch or None,
            )

    @property
    def _local_batch(self) -> int:
        return parallel.local_batch_size(self.config.train.batch_size, self.mesh)

    def _program_and_feed(self, source: Source) -> tuple[Callable, Callable]:
        """The training program, and what gives its inputs from a step on."""
        config, recipe = self.config, recipe_of(self.config)
        soft_labels = self._open_labels() if config.labels == "soft" else None
        order = {
            "batch_size": self._local_batch,
            "seed": config.seed,
            "sampling": config.train.sampling,
            "window_clips": config.train.window_clips,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }
        if not config.train.steps_per_dispatch:
            labels = {"soft_labels": soft_labels, "alpha": config.alpha}

            def feed_batches(step: int):
                return batches.train_batches(
                    source, self.segmentation, start_step=step, **order, **labels
                )

            return train_program(self._network[0], recipe, self.mesh), feed_batches

        def feed_entries(step: int):
            return batches.train_entries(source.index, self.segmentation, start_step=step, **order)

        program = resident.resident_program(
            self._network[0], recipe, self.segmentation, config.alpha, self.mesh
        )

        @cache
        def split() -> resident.ResidentSplit:
            """Loaded at the first step: a finished training makes none."""
            return resident.load(source, self.segmentation, soft_labels, self.mesh)

        return lambda *inputs: program(split(), *inputs), feed_entries

    def _validate(self, variables: Variables) -> float:
        source = self.source(self.config.data.validation_split)
        scores = self._score(variables, source, None)
        return evaluation.mean_average_precision(scores, source.index)

    def _score(self, variables: Variables, source: Source, description: str | None):
        seconds = self.config.evaluate.segment_seconds
        segmentation = evaluation.evaluation_segmentation(
            source.index, self.config.segment_seconds if seconds < 0 else seconds
        )
        scorer = self._scorer(variables, self.logmel)
        size = self.config.evaluate.batch_size
        return evaluation.score_clips(scorer, source, segmentation, size, description)

    def _average(self) -> None:
        with TrainingCheckpoints(
            self.run_dir / "checkpoints", self.config.train.best_checkpoints
        ) as kept:
            variables, steps = kept.average_best()
        index = self.source(self.config.data.train_split).index
        info = ModelInfo(
            classes=index.classes,
            width=self.config.model.width,
            segment_seconds=self.config.segment_seconds,
            logmel=self.logmel,
            name=self.config.name,
            origin={
                "averaged_steps": steps,
                "config_digest": files.json_digest(self.config.to_dict()),
            },
        )
        folder = self.run_dir / orbax_folder.MODEL_FOLDER
        orbax_folder.save_model(folder, variables, info.as_json())

    def _evaluate(self) -> None:
        model = load_model(self.run_dir)
        source = self.source(self.config.data.eval_split)
        name = f"evaluate {self.config.name}"
        scores = self._score(model.variables, source, name)
        if jax.process_index() == 0:
            more = {"averaged_steps": model.info.origin["averaged_steps"]}
            evaluation.write_results(self.run_dir, source.index, scores, more)

    def _report(self) -> None:
        if jax.process_index() == 0:
            pages.write_run_report(self.run_dir, config_lib.base().to_dict())

    def summary(self) -> dict[str, Any]:
        """The row of this experiment in a suite's results."""
        metrics = files.read_json(self.run_dir / evaluation.METRICS)
        index = self.source(self.config.data.train_split).index
        segments = int(self.segmentation.counts(index.num_samples).sum())
        done = self.finished
        return {
            "name": self.config.name,
            **metrics,
            "label": self.config.labels,
            "segment_seconds": self.config.segment_seconds,
            "train_clips": len(index),
            "train_segments": segments,
            "seed": self.config.seed,
            "seconds": round(sum(stage["seconds"] for stage in done.values()), 1),
        }


def loop_settings(config: ConfigDict, steps_per_epoch: float) -> LoopSettings:
    """Steps of the training loop, from epochs where the config speaks of epochs."""
    epoch = max(1, round(steps_per_epoch))
    return LoopSettings(
        max_steps=config.train.max_steps or max(1, round(config.train.epochs * steps_per_epoch)),
        validate_every=min(config.train.validate_every, epoch),
        checkpoint_every=config.train.checkpoint_every,
        log_every=config.train.log_every,
        patience=config.train.patience,
    )


def schedule_of(config: ConfigDict, max_steps: int) -> Schedule:
    decays = config.train.schedule == "polynomial"
    return Schedule(
        config.train.learning_rate, max_steps if decays else 0, config.train.decay_power
    )


def recipe_of(config: ConfigDict) -> Recipe:
    augment = config.augment.to_dict() | {"gain_db": tuple(config.augment.gain_db)}
    return Recipe(
        logmel=LogMel(**config.frontend.to_dict()),
        augmentation=Augmentation(**augment),
        dtype=config.model.dtype,
        seed=config.seed,
    )


def _keep_config(path: pathlib.Path, config: ConfigDict) -> None:
    """Writes config.json; a folder made with other settings is an error that names them.

    Settings that the folder's config does not know yet had their default. HOW_STEPS_ARE_MADE may
    differ: it is no part of what is computed.
    """
    wanted = files.as_json(config.to_dict())
    if path.exists():
        defaults = _flat(files.as_json(config_lib.base().to_dict()))
        old, new = defaults | _flat(files.read_json(path)), _flat(wanted)
        differing = [
            key
            for key in sorted((old.keys() | new.keys()) - {HOW_STEPS_ARE_MADE})
            if old.get(key) != new.get(key)
        ]
        if differing:
            lines = [f"  {key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing]
            raise UserError(
                f"{path.parent} was made with other settings:\n"
                + "\n".join(lines[:10])
                + "\nGive another --workdir, or delete the folder to start afresh."
            )
    elif jax.process_index() == 0:
        files.write_json(path, wanted)


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
