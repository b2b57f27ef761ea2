"""All experiments of a config, one after the other, and the table that compares them."""

import dataclasses
import difflib
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from psl_jax import config as config_lib
from psl_jax.config import Settings
from psl_jax.data.label_manifest import digest_without_teacher
from psl_jax.data.settings import DataSettings
from psl_jax.data.source import Source
from psl_jax.experiments import paper_tables, stepping
from psl_jax.experiments.experiment import Experiment
from psl_jax.experiments.run_folder import OtherRunError
from psl_jax.reporting import audio_examples, result_tables, run_page, suite_page
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.runtime.run_files import LABEL_QUALITY
from psl_jax.scoring import bootstrap, evaluation
from psl_jax.tagging import tagger
from psl_jax.teachers import open_teacher

RESULTS = "results.json"


def run(
    config: ConfigDict,
    workdir: str | os.PathLike,
    last_stage: str | None = None,
    start_afresh: bool = False,
) -> dict[str, Any] | None:
    """Runs what is not finished yet in `workdir` and prints the results and where they lie.

    A single experiment has `workdir` as its run folder; those of a suite have one each inside it.
    All of them are checked before the first is begun. Returns the results of a run to its end, in
    process 0. start_afresh: what a run folder holds that was made with other settings, data or
    another teacher is deleted.
    """
    start = time.perf_counter()
    workdir = path_of(workdir)
    experiments = stepping.alike(config_lib.experiments(config), config.init_from)
    is_suite = bool(len(config.experiments))
    _check_teachers(experiments)
    for one in experiments.values():
        stepping.check_batch(one, parallel.data_mesh(one.num_devices or None))
    data_dirs = _prepare_all(experiments, workdir)
    if last_stage == "prepare":
        _check_splits(experiments, data_dirs)
        return None

    def make(name: str, afresh: bool = False) -> Experiment:
        one = experiments[name]
        folder = workdir / name if is_suite else workdir
        teacher, start = (
            workdir / other if other in experiments else None
            for other in (one.teacher, one.init_from)
        )
        return Experiment(one, folder, data_dirs[name], teacher, afresh, start)

    runs = [_checked(make, name, last_stage, start_afresh) for name in experiments]
    _check_disk(runs, workdir)
    if jax.process_index() == 0:
        print("\n".join(["", *plan(runs)]), flush=True)
    for number, name in enumerate(experiments):
        if is_suite and jax.process_index() == 0:
            place = f"{number + 1} of {len(runs)}"
            print(f"\n== {name} ({place}) in {runs[number].run_dir}", flush=True)
        try:
            runs[number].run(last_stage)
        except OtherRunError:  # a teacher, or a start, that was trained again
            if not start_afresh:
                raise
            runs[number] = make(name, afresh=True)
            runs[number].check(last_stage)
            runs[number].run(last_stage)
    if last_stage not in (None, "evaluate", "report"):
        return None
    seconds = time.perf_counter() - start
    return parallel.run_in_first_process(
        f"results in {workdir}", lambda: _summarize(config.name, workdir, runs, is_suite, seconds)
    )


def _check_teachers(experiments: Mapping[str, Settings]) -> None:
    """Raises UserError for a teacher that is neither an experiment nor something on disk."""
    for name, one in experiments.items():
        if one.labels != "soft" or not one.alpha or not one.teacher or one.teacher in experiments:
            continue
        if one.soft_labels_dir and digest_without_teacher(one.soft_labels_dir, False):
            continue
        if (place := open_teacher.lacking(one.teacher)) is None:
            continue
        if open_teacher.is_foreign(one.teacher):
            raise UserError(f"the teacher of {name!r} is {one.teacher!r}: there is no {place}")
        near = difflib.get_close_matches(one.teacher, experiments, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"the teacher of {name!r} is {one.teacher!r}: there is neither such an experiment "
            f"({', '.join(experiments)}) nor such a run folder.{hint}"
        )


def _check_splits(experiments: Mapping[str, Settings], data_dirs: Mapping[str, str]) -> None:
    """Raises UserError for a setting that names a split which the prepared data lacks."""
    for name, one in experiments.items():
        data, data_dir = one.data, data_dirs[name]
        for setting in ("train_split", "validation_split", "eval_split"):
            split = getattr(data, setting)
            try:
                Source.open(data_dir, split)
            except UserError as error:
                raise UserError(f"config.data.{setting} is {split!r}: {error}") from error


def _checked(make: Any, name: str, last_stage: str | None, start_afresh: bool) -> Experiment:
    """The experiment, which can be run. Nothing is deleted here: another one may yet fail."""
    run = make(name)
    try:
        run.check(last_stage)
    except OtherRunError:
        if not start_afresh:
            raise
        run = make(name, afresh=True)
        run.check(last_stage)
    return run


def _check_disk(runs: list[Experiment], workdir: pathlib.Path) -> None:
    """Raises UserError where the disk is too small for what will be written."""
    if is_remote(workdir):
        return
    needed = sum(run.bytes_to_write for run in runs)
    place = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if jax.process_index() == 0 and needed > free:
        raise UserError(
            f"{workdir}: checkpoints and soft labels will take about {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free. Free some space, or give another --workdir"
        )


def plan(runs: list[Experiment]) -> list[str]:
    """What will be done, a line an experiment, and what to know of it before."""
    width = max(len(run.settings.name) for run in runs)
    lines = [
        f"computes on {parallel.describe_devices(runs[0].mesh)}",
        f"{'':{width}}  labels    clips  segments  batch    steps",
    ]
    again: set[str] = set()  # whose folder is deleted; who is needed comes first
    for run in runs:
        settings = run.settings
        done = "  trained" if "train" in run.folder.finished else ""
        needs_again = {settings.teacher, settings.init_from} & again
        if run.folder.begun and (run.folder.afresh or needs_again):
            again.add(settings.name)
            done = "  begun again"
        lines.append(
            f"{settings.name:{width}}  {settings.labels:6} {len(run.train_index):8,} "
            f"{run.train_segments:9,} {run.batch_size:6,} {run.loop.max_steps:8,}{done}"
        )
    seconds = sum(run.rough_seconds for run in runs if "train" not in run.folder.finished)
    if seconds:
        lines.append(f"training will take about {result_tables.duration(seconds)}, very roughly")
    notes = result_tables.notes([{"name": run.settings.name, "notes": run.notes} for run in runs])
    return [*lines, *(f"note: {note}" for note in notes)]


def _note_poor_teachers(rows: list[dict[str, Any]], settings: list[Settings]) -> None:
    """Adds a note to students whose teacher of the suite is worse than one on weak labels."""
    scores = {row["name"]: row["mAP"] for row in rows}
    weak = [row["mAP"] for row, one in zip(rows, settings, strict=True) if one.name == "weak"]
    for row, one in zip(rows, settings, strict=True):
        if one.labels == "soft" and weak and one.teacher in scores:
            found = scores[one.teacher]
            if found < weak[0]:
                row["notes"].append(
                    f"the teacher ({100 * found:.2f} mAP) is worse than the same network on the "
                    f"weak labels ({100 * weak[0]:.2f}): its labels are no gain"
                )


def _add_intervals(
    rows: list[dict[str, Any]], runs: list[Experiment], results: Mapping[str, Any]
) -> None:
    """Adds to each row how far its mAP may lie from its reference's on other clips."""
    found = {run.settings.name: evaluation.read_scores(run.run_dir) for run in runs}
    known = {name: scores for name, scores in found.items() if scores is not None}
    by_reference: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reference.setdefault(result_tables.reference_of(results, row["name"]), []).append(row)
    for reference, group in by_reference.items():
        if reference in known:
            _add_intervals_over(group, known, reference)


def _add_intervals_over(
    rows: list[dict[str, Any]], known: Mapping[str, Mapping[str, np.ndarray]], reference: str
) -> None:
    ours, names = known[reference], {reference, *(row["name"] for row in rows)}
    alike = {
        name: scores["scores"]
        for name, scores in known.items()
        if name in names
        and all(np.array_equal(scores[key], ours[key]) for key in ("ids", "classes", "targets"))
    }
    intervals = bootstrap.compute_differences(ours["targets"], alike, reference)
    for row in rows:
        if (one := intervals.get(row["name"])) is not None:
            row["over_reference"] = {"low": one.low, "high": one.high}


def _write_clips(
    workdir: pathlib.Path,
    runs: list[Experiment],
    rows: list[dict[str, Any]],
    references: Mapping[str, str],
) -> None:
    """Keeps clips to listen to, of those that the best student was trained on."""
    if jax.process_count() > 1:  # the others would have to read the model with this one
        print("note: clips to listen to are made where the report is made by one process")
        return
    name = suite_page.best_of(rows, references)
    best = next(run for run in runs if run.settings.name == name)
    labels = {}
    for run in runs:
        if run.train_index.ids_sha256 == best.train_index.ids_sha256:
            try:
                found = run.label_stage.open() if run.label_stage.is_stored else None
            except UserError as error:  # deleted to save room: the others are shown
                print(f"note: the clips are without the labels of {run.settings.name}: {error}")
                continue
            if found is not None:
                labels[run.settings.name] = found
    source = best.source(best.settings.data.train_split)
    folder = workdir / audio_examples.FOLDER
    audio_examples.write(folder, source, labels, best.settings.name, tagger.load(best.run_dir))


def _prepare_all(experiments: Mapping[str, Settings], workdir: pathlib.Path) -> dict[str, str]:
    """Where the data of each experiment lie; each data set is prepared once."""
    found: dict[DataSettings, str] = {}
    result = {}
    for name, one in experiments.items():
        # Which splits are used does not matter for what is prepared.
        data = dataclasses.replace(one.data, train_split="", validation_split="", eval_split="")
        if data not in found:
            found[data] = prepare(data, workdir)
        result[name] = found[data]
    return result


def prepare(data: DataSettings, workdir: pathlib.Path) -> str:
    """Where the data of `data` lie, which are prepared where they are not there; all come here."""
    from psl_jax.preparing import prepare_corpus

    if jax.process_index() == 0:
        prepare_corpus.prepare(data, workdir)
    parallel.wait_for_all("prepare")
    return prepare_corpus.prepare(data, workdir, quiet=True)


def _summarize(
    name: str,
    workdir: pathlib.Path,
    runs: list[Experiment],
    is_suite: bool,
    seconds: float,
) -> dict[str, Any]:
    rows = [run.summary() for run in runs]
    _note_poor_teachers(rows, [run.settings for run in runs])
    results: dict[str, Any] = {"name": name, "experiments": rows}
    table = paper_tables.table_of(name)
    if table is not None:
        if name in paper_tables.TABLES:  # on the paper's data
            results["paper"] = {key: row.value for key, row in table.reported.items()}
            results["paper_d_prime"] = {key: row.d_prime for key, row in table.reported.items()}
        names = {row["name"] for row in rows}
        results["measures"] = {k: v for k, v in table.measures.items() if k in names}
        results["references"] = {k: v for k, v in table.references.items() if k in names}
    others = "scratch" if any(row["name"] == "scratch" for row in rows) else "weak"
    results["reference"] = table.reference if table else others
    _add_intervals(rows, runs, results)
    quality = {
        run.settings.name: files.read_json(run.run_dir / LABEL_QUALITY)
        for run in runs
        if (run.run_dir / LABEL_QUALITY).exists()
    }
    if quality:
        results["label_quality"] = quality
    if is_suite:
        files.write_json(workdir / RESULTS, results)
    print("\n" + run_page.format_table(results))
    for note in result_tables.notes(rows):
        print(f"note: {note}")
    if is_suite:
        _write_clips(workdir, runs, rows, results.get("references") or {})
        suite_page.write(workdir, results)
    places = {
        "report": workdir / "report.html",
        "results": workdir / (RESULTS if is_suite else evaluation.METRICS),
        "averaged model" + "s" * is_suite: workdir / ("*/averaged" if is_suite else "averaged"),
    }
    print(f"\nfinished in {seconds / 60:.1f} min")
    for what, place in places.items():
        print(f"  {what}: {place}")
    return results
