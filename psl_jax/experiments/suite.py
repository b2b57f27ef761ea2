"""Runs the experiments of a config, one after the other; over seeds and folds again and again.

    python -m psl_jax.main --config esc50 --folds=all --seeds=0,1 --config.data.source_dir=ESC50

Of a cross-validation each fold is evaluated once, with what is trained on all others.
"""

import copy
import dataclasses
import difflib
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.data import split_index_files
from psl_jax.data.label_manifest import digest_without_teacher
from psl_jax.data.settings import DataSettings
from psl_jax.experiments import setting_checks, suite_results, training_steps
from psl_jax.experiments.experiment import Experiment
from psl_jax.experiments.run_folder import OtherRunError, RunFolder
from psl_jax.experiments.suite_results import Repetition
from psl_jax.networks.trained_model import Model
from psl_jax.reporting import result_tables
from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.runtime.run_files import Stage
from psl_jax.teachers import open_teacher


def run(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    seeds: Sequence[int] | None = None,
    folds: Sequence[int] | None = None,
    last_stage: Stage = Stage.REPORT,
    start_afresh: bool = False,
) -> dict[str, Any] | None:
    """Runs what is not finished yet in `workdir`, and prints the results and where they lie.

    A single experiment has `workdir` as its run folder; those of a suite have one each inside it.
    All of them are checked before the first is begun.

    Args:
      seeds: each runs the config in a folder seed<N>. It is the seed of weights, order and
        augmentation; the data keep their own.
      folds: those of the data that are evaluated, each in a folder fold<K>; an empty list: all.
        With seeds, each fold has a mean over the seeds first.
      last_stage: the stages after it are not run.
      start_afresh: what a run folder holds that was made with other settings, data or another
        teacher is deleted.

    Returns the results of a run to its end, in process 0. Raises UserError.
    """
    workdir, config = path_of(workdir), copy.deepcopy(config)
    if (folds is not None or seeds is not None) and not config.data.data_dir:
        config.data.data_dir = os.fspath(workdir / "data")
    repetitions: list[Repetition] = []
    if folds is not None:
        if config.data.unlabelled:
            raise UserError("--folds evaluates on labels: it does not go with data.unlabelled")
        if config.data.corpus == "own_data":
            config.data.num_folds = config.data.num_folds or 5
        repetitions.append(_fold_repetition(folds, _folds_of(config, workdir)))
    if seeds is not None:
        repetitions.append(Repetition("seed", tuple(seeds)))
    stages = {"last_stage": last_stage, "start_afresh": start_afresh}
    return _run_repeated(config, workdir, repetitions=repetitions, **stages)


def _run_repeated(
    config: ConfigDict, workdir: pathlib.Path, *, repetitions: Sequence[Repetition], **stages: Any
) -> dict[str, Any] | None:
    """Runs the config for each value of the first repetition, and of the others inside it."""
    if not repetitions:
        return _run_suite(config, workdir, **stages)
    repetition, *inner = repetitions
    all_results = []
    for number, value in enumerate(repetition.values):
        if jax.process_index() == 0:
            place = f"{number + 1} of {len(repetition.values)}"
            print(f"\n=== {repetition.name} {value} ({place})", flush=True)
        changed = _with_value(config, repetition, value=value)
        folder = workdir / repetition.folder(value)
        results = _run_repeated(changed, folder, repetitions=inner, **stages)
        if results is not None:
            all_results.append(results)

    def write() -> dict[str, Any] | None:
        if not all_results:  # the last stage came before them
            return None
        is_suite = bool(len(config.experiments))
        merged = suite_results.merge(all_results, repetition, is_suite=is_suite)
        suite_results.add_intervals(merged, workdir)
        print(f"\nmean ± standard deviation over {len(all_results)} {repetition.name}s")
        suite_results.write(merged, workdir)
        return merged

    return parallel.run_in_first_process(f"results in {workdir}", write)


def _with_value(config: ConfigDict, repetition: Repetition, *, value: int) -> ConfigDict:
    """The config with a seed, or with one fold to evaluate and the others to train on."""
    config = copy.deepcopy(config)
    if repetition.name == "seed":
        config.seed = value
    else:
        others = "+".join(f"fold{fold}" for fold in repetition.all_values if fold != value)
        for experiment in config.experiments.values():
            if "train_split" in experiment.get("data", {}):  # such as the teacher's
                experiment.data.train_split = others
        config.data.train_split = config.data.validation_split = others
        config.data.eval_split = f"fold{value}"
    return config


def _fold_repetition(chosen: Sequence[int], folds: Sequence[int]) -> Repetition:
    """Of the folds of the data those that are `chosen`; of none chosen, all. Raises UserError."""
    if len(folds) < 2:
        raise UserError(
            "--folds: expected data with the splits fold1, fold2, ... Own recordings have them, "
            "unless their splits.csv or tables give other splits, or there are fewer groups than "
            "folds: then give another --config.data.group_by, such as recording (docs/DATA.md)"
        )
    for fold in chosen:
        if fold not in folds:
            names = ", ".join(map(str, folds))
            raise UserError(f"--folds: the data have no fold {fold}; they have {names}")
    return Repetition("fold", tuple(chosen or folds), tuple(folds))


def _folds_of(config: ConfigDict, workdir: pathlib.Path) -> list[int]:
    """The numbers of the splits fold1, fold2, ... of the data, which are prepared for it."""
    data = next(iter(config_lib.experiments(config).values())).data
    splits = split_index_files.splits(prepare(data, workdir))
    return sorted(int(name[4:]) for name in splits if re.fullmatch(r"fold\d+", name))


# --- One suite ----------------------------------------------------------------------------------


def _run_suite(
    config: ConfigDict, workdir: pathlib.Path, *, last_stage: Stage, start_afresh: bool
) -> dict[str, Any] | None:
    start = time.perf_counter()
    experiments, starts = read_experiments(config)
    is_suite = bool(len(config.experiments))
    run_dirs = {name: workdir / name if is_suite else workdir for name in experiments}
    _check_teachers(experiments, run_dirs)
    for settings in experiments.values():
        setting_checks.check_batch(settings, parallel.data_mesh())
    data_dirs = _prepare_all(experiments, workdir)
    if last_stage is Stage.PREPARE:
        return None

    def open_run(name: str, *, afresh: bool = False) -> Experiment:
        """The experiment, which can be run. Nothing is deleted here: another one may yet fail."""
        settings = experiments[name]
        experiment = Experiment(
            settings,
            run_dirs[name],
            data_dir=data_dirs[name],
            teacher=run_dirs.get(settings.teacher),
            start=starts.get(settings.init_from),
            afresh=afresh,
        )
        try:
            experiment.check(last_stage)
        except OtherRunError:
            if afresh or not start_afresh:
                raise
            return open_run(name, afresh=True)
        return experiment

    runs = {name: open_run(name) for name in experiments}
    if jax.process_index() == 0:
        print("\n".join(["", *describe_plan(list(runs.values()))]), flush=True)
    for number, name in enumerate(experiments):
        if is_suite and jax.process_index() == 0:
            place = f"{number + 1} of {len(runs)}"
            print(f"\n== {name} ({place}) in {runs[name].run_dir}", flush=True)
        try:
            runs[name].run(last_stage)
        except OtherRunError:  # a teacher that was trained again
            if not start_afresh:
                raise
            runs[name] = open_run(name, afresh=True)
            runs[name].run(last_stage)
    if not last_stage.has_results:
        return None

    def write() -> dict[str, Any]:
        results = suite_results.summarize(config.name, list(runs.values()))
        suite_results.add_intervals(results, workdir)
        if is_suite:
            suite_results.write_clips(list(runs.values()), results, workdir=workdir)
        suite_results.write(results, workdir, is_suite=is_suite)
        print(f"\nfinished in {(time.perf_counter() - start) / 60:.1f} min")
        return results

    return parallel.run_in_first_process(f"results in {workdir}", write)


def read_experiments(config: ConfigDict) -> tuple[dict[str, Settings], dict[str, Model]]:
    """Returns the experiments, and the models that they start from by the names of these.

    Each has the form of its model's network. Where the config has `init_from`, experiments from
    scratch are of the same form.
    """
    experiments = config_lib.experiments(config)
    names = {settings.init_from for settings in experiments.values()} - {""}
    starts = {name: training_steps.load_start(name) for name in sorted(names)}
    for name, settings in experiments.items():
        if start := starts.get(settings.init_from or config.init_from):
            experiments[name] = settings.with_network(start.info)
    return experiments, starts


def _check_teachers(
    experiments: Mapping[str, Settings], run_dirs: Mapping[str, pathlib.Path]
) -> None:
    """Raises UserError for a teacher that is neither an experiment nor something on disk."""
    for name, settings in experiments.items():
        teacher, labels_dir = settings.teacher, settings.soft_labels_dir
        if not settings.uses_soft_labels or teacher in {"", *experiments}:
            continue
        if RunFolder(run_dirs[name], settings).finished:  # its labels are made, or needed no more
            continue
        if labels_dir and digest_without_teacher(labels_dir, False):
            continue
        if (missing_place := open_teacher.find_missing(teacher)) is not None:
            near = difflib.get_close_matches(teacher, experiments, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"the teacher of {name!r} is {teacher!r}: there is no {missing_place} (yet), and "
                f"it is none of the experiments {', '.join(experiments)}.{hint} Train it first, or "
                "name another by --config.teacher (docs/TEACHERS.md)"
            )


def describe_plan(runs: list[Experiment]) -> list[str]:
    """What will be done, a line an experiment, and what to know of it before."""
    width = max(len(run.settings.name) for run in runs)
    lines = [
        f"computes on {parallel.describe_devices(runs[0].mesh)}",
        f"{'':{width}}  labels    clips  segments  batch    steps",
    ]
    deleted: set[str] = set()  # whose folder is; who is needed comes first
    for run in runs:
        settings = run.settings
        state = "  trained" if Stage.TRAIN in run.folder.finished else ""
        if run.folder.begun and (run.folder.afresh or settings.teacher in deleted):
            deleted.add(settings.name)
            state = "  begun again"
        lines.append(
            f"{settings.name:{width}}  {settings.labels:6} {len(run.train_index):8,} "
            f"{run.train_segments:9,} {run.batch_size:6,} {run.loop.max_steps:8,}{state}"
        )
    notes = result_tables.list_notes(
        [{"name": run.settings.name, "notes": run.notes} for run in runs]
    )
    return [*lines, *(f"note: {note}" for note in notes)]


def _prepare_all(experiments: Mapping[str, Settings], workdir: pathlib.Path) -> dict[str, str]:
    """Where the data of each experiment lie; each data set is prepared once."""
    data_sets = {
        # Which splits are used does not matter for what is prepared.
        name: dataclasses.replace(settings.data, train_split="", validation_split="", eval_split="")
        for name, settings in experiments.items()
    }
    folders = {data: prepare(data, workdir) for data in dict.fromkeys(data_sets.values())}
    return {name: folders[data] for name, data in data_sets.items()}


def prepare(data: DataSettings, workdir: pathlib.Path) -> str:
    """Where the data of `data` lie, which are prepared where they are not there; all come here."""
    from psl_jax.preparing import prepare_corpus

    is_first = jax.process_index() == 0
    return parallel.run_after_first_process(
        "prepare", lambda: prepare_corpus.prepare(data, workdir, quiet=not is_first)
    )
