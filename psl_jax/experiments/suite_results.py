"""The results of a suite, of one run or merged over seeds or folds: table, page, intervals."""

import dataclasses
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from psl_jax.experiments import paper_tables
from psl_jax.experiments.experiment import Experiment
from psl_jax.reporting import audio_examples, result_tables, run_page, suite_page
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_files import LABEL_QUALITY
from psl_jax.scoring import bootstrap, evaluation
from psl_jax.scoring.event_metrics import EVENT_METRICS
from psl_jax.tagging import tagger
from psl_jax.weights import orbax_folder

RESULTS = "results.json"
_AVERAGED = ("mAP", "d_prime", "AUC", "lwlrap", "mAP_at_3", *EVENT_METRICS)
Scores = dict[str, np.ndarray]  # see `evaluation.read_scores`
SeedScores = list[list[Scores]]  # of each fold those of each seed


@dataclasses.dataclass(frozen=True)
class Repetition:
    """The values of a seed or fold with which a config is run, each in a folder of its own."""

    name: str  # "seed" or "fold"
    values: tuple[int, ...]  # those that are run
    all_values: tuple[int, ...] = ()  # of folds, those that the data have

    def folder(self, value: int) -> str:
        return f"{self.name}{value}"


# --- The results of one suite -------------------------------------------------------------------


def summarize(name: str, runs: Sequence[Experiment]) -> dict[str, Any]:
    """What results.json holds of finished experiments: rows, and what they are held against."""
    rows = {run.settings.name: run.summary() for run in runs}
    _note_poor_teachers(rows, {run.settings.name: run.settings.teacher for run in runs})
    results: dict[str, Any] = {"name": name, "experiments": list(rows.values())}
    table = paper_tables.table_of(name)
    if table is not None:
        if name in paper_tables.TABLES and table.reported:  # on the paper's data
            results["paper"] = {name: value for name, (value, _) in table.reported.items()}
            results["paper_d_prime"] = {name: d for name, (_, d) in table.reported.items()}
        results["measures"] = {k: v for k, v in table.measures.items() if k in rows}
        results["references"] = {k: v for k, v in table.references.items() if k in rows}
    without_table = "scratch" if "scratch" in rows else "weak"
    results["reference"] = table.reference if table else without_table
    qualities = {run.settings.name: files.find_json(run.run_dir / LABEL_QUALITY) for run in runs}
    if any(qualities.values()):
        results["label_quality"] = {name: quality for name, quality in qualities.items() if quality}
    return results


def _note_poor_teachers(rows: Mapping[str, dict[str, Any]], teachers: Mapping[str, str]) -> None:
    """Adds a note to students whose teacher of the suite is worse than one on weak labels.

    Both by the name of the experiment; teachers: "" where it has none.
    """
    weak = rows.get("weak", {}).get("mAP")
    for name, row in rows.items():
        teacher = rows.get(teachers[name], {}).get("mAP")
        if weak is not None and teacher is not None and teacher < weak:
            row["notes"].append(
                f"the teacher ({100 * teacher:.2f} mAP) is worse than the same network on the "
                f"weak labels ({100 * weak:.2f}): its labels are no gain"
            )


# --- Over seeds or folds ------------------------------------------------------------------------


def merge(
    all_results: Sequence[Mapping[str, Any]], repetition: Repetition, *, is_suite: bool
) -> dict[str, Any]:
    """The results of a suite over seeds or folds: means, with spreads of mAP and of its gains."""
    first, values = all_results[0], repetition.values
    left_out = ("experiments", "label_quality", "clips")
    merged = {key: value for key, value in first.items() if key not in left_out}
    if repetition.name == "seed":  # of the same clips
        merged["clips"] = f"{repetition.folder(values[0])}/{audio_examples.FOLDER}"
    by_value = [{row["name"]: row for row in results["experiments"]} for results in all_results]
    merged[f"{repetition.name}s"] = list(values)
    merged["experiments"] = []
    for name in by_value[0]:
        reference = result_tables.reference_of(merged, name)
        row = _merge_rows([rows[name] for rows in by_value], repetition, is_suite=is_suite)
        gains = [
            rows[name]["mAP"] - rows[reference]["mAP"]
            for rows in by_value
            if reference in rows and None not in (rows[name]["mAP"], rows[reference]["mAP"])
        ]
        merged["experiments"].append(row | {"gain_spread": _spread(gains)})
    return merged


def _merge_rows(
    rows: Sequence[Mapping[str, Any]], repetition: Repetition, *, is_suite: bool
) -> dict[str, Any]:
    """The row of an experiment over seeds or folds."""
    merged = {
        k: v for k, v in rows[0].items() if k not in ("over_reference", "seed", "mAP_by_seed")
    }
    for key in _AVERAGED:
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            merged[key] = statistics.fmean(values)
    if repetition.name == "fold":  # of other clips each
        merged["num_clips"] = sum(row["num_clips"] for row in rows)
        merged["clip_ids_sha256"] = files.json_digest([row["clip_ids_sha256"] for row in rows])
    folder = rows[0]["name"] if is_suite else ""
    scores = [row["mAP"] for row in rows if row["mAP"] is not None]
    return merged | {
        "mAP_spread": _spread(scores),
        f"mAP_by_{repetition.name}": scores,
        "run_dirs": [
            f"{repetition.folder(value)}/{inner}".rstrip("/")
            for value, row in zip(repetition.values, rows, strict=True)
            for inner in row.get("run_dirs", [folder])
        ],
        "seconds": sum(row["seconds"] for row in rows),
        "notes": list(dict.fromkeys(note for row in rows for note in row.get("notes", ()))),
    }


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


# --- Intervals ----------------------------------------------------------------------------------


def add_intervals(results: dict[str, Any], workdir: pathlib.Path) -> None:
    """Adds to each row how far its mAP may lie from its reference's, on other clips and seeds.

    Only where the scores of all runs are there with their targets, and of the same clips.
    """
    num_folds = len(results.get("folds", [None]))
    runs: dict[str, SeedScores | None] = {}
    for row in results["experiments"]:
        stored = [evaluation.read_scores(workdir / d) for d in row.get("run_dirs", [row["name"]])]
        complete = [arrays for arrays in stored if arrays is not None]
        num_seeds = len(stored) // num_folds
        by_fold = [complete[k : k + num_seeds] for k in range(0, len(stored), num_seeds)]
        runs[row["name"]] = by_fold if len(complete) == len(stored) else None
    for row in results["experiments"]:
        name, reference = row["name"], result_tables.reference_of(results, row["name"])
        ours, theirs = runs[name], runs.get(reference)
        if name == reference or not ours or not theirs or not _are_of_same_clips(ours, theirs):
            continue
        folds = []
        for of_fold, of_reference in zip(ours, theirs, strict=True):
            scores, reference_scores = (
                [arrays["scores"] for arrays in runs_of_fold]
                for runs_of_fold in (of_fold, of_reference)
            )
            folds.append((of_fold[0]["targets"], scores, reference_scores))
        interval = bootstrap.compute_difference(folds)
        row["over_reference"] = {"low": interval.low, "high": interval.high}


def _are_of_same_clips(folds: SeedScores, others: SeedScores) -> bool:
    """Whether there are as many runs of each fold, and all of the same clips."""
    return all(
        len(ours) == len(theirs)
        and all(
            np.array_equal(scores[key], theirs[0][key])
            for scores in (*ours, *theirs)
            for key in ("ids", "classes", "targets")
        )
        for ours, theirs in zip(folds, others, strict=True)
    )


# --- What people look at ------------------------------------------------------------------------


def write(results: Mapping[str, Any], workdir: pathlib.Path, *, is_suite: bool = True) -> None:
    """Prints the table and where the results lie; of a suite, writes results.json and the page."""
    print("\n" + result_tables.format_table(results))
    for note in result_tables.list_notes(results["experiments"]):
        print(f"note: {note}")
    if is_suite:
        files.write_json(workdir / RESULTS, results)
        suite_page.write(workdir, results)
    print(f"\n  report: {workdir / run_page.REPORT_NAME}")
    print(f"  results: {workdir / (RESULTS if is_suite else evaluation.METRICS)}")
    if not is_suite:
        print(f"  averaged model: {workdir / orbax_folder.MODEL_FOLDER}")


def write_clips(
    runs: Sequence[Experiment], results: Mapping[str, Any], *, workdir: pathlib.Path
) -> None:
    """Keeps clips to listen to, of those that the best student was trained on."""
    if jax.process_count() > 1:  # the others would have to read the model with this one
        print("note: clips to listen to are made where the report is made by one process")
        return
    name = suite_page.best_of(results["experiments"], results.get("references") or {})
    best = next((run for run in runs if run.settings.name == name), runs[-1])
    labels = {}
    for run in runs:
        if run.train_index.ids_sha256 == best.train_index.ids_sha256:
            try:
                soft_labels = run.soft_labels()
            except UserError as error:  # deleted to save room: the others are shown
                print(f"note: the clips are without the labels of {run.settings.name}: {error}")
                continue
            if soft_labels is not None:
                labels[run.settings.name] = soft_labels
    source = best.source(best.settings.data.train_split)
    folder = workdir / audio_examples.FOLDER
    audio_examples.write(folder, source, labels, best.settings.name, tagger.load(best.run_dir))
