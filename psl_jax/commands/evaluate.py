"""Scores a split of a data set with a model, and prints the metrics.

    psl-jax evaluate runs/psl2s DATA --split=eval --segment_seconds=2
    psl-jax evaluate published.pt DATA --segment_seconds=whole --out=published
    psl-jax evaluate mn:mn10_as.pt DATA --segment_seconds=10 --class_map=CLASSES.csv
    psl-jax evaluate runs/psl2s DATA --events --scores=birdnet.csv

A clip's score is the mean of the scores of its segments. The command writes metrics.json,
per_class.csv and scores.npz (ids, classes, scores, targets). Several processes can share an
evaluation (--distributed). The data may have fewer classes than the model, in another order:
classes are matched by name.

With --events the tags with times are evaluated, too: PSDS, and F1 of segments and of events, with
the model's thresholds. --scores compares another tagger's table with the model, on the same clips.
Both write report.html.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.data.batches import WholeClips
from psl_jax.data.clip_index import ClipIndex
from psl_jax.networks.trained_model import Model
from psl_jax.reporting import result_tables, run_page
from psl_jax.runtime import files, parallel, run_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import evaluation, event_metrics, tagger_tables
from psl_jax.scoring.evaluation import AnySegmentation
from psl_jax.scoring.tagger_tables import TaggerTables
from psl_jax.tagging import event_evaluation, tagging_cli
from psl_jax.teachers import scoring_cli
from psl_jax.teachers.teacher import Teacher

COMPARISON = "comparison"  # folder of the taggers in tables, in that of the model


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = scoring_cli.make_parser("evaluate", __doc__ or "")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder where the results are written (default: "
        "evaluations/<model>-<split>-<segments>)",
    )
    group = parser.add_argument_group("events, and another tagger")
    group.add_argument(
        "--events",
        action="store_true",
        help="also compute PSDS, segment F1 and event F1 against the split's events (default: "
        "clip metrics only)",
    )
    tagging_cli.add_smoothing(group)
    group.add_argument(
        "--scores",
        action="append",
        default=[],
        metavar="TABLE",
        help="also compare with another tagger: its events and their scores, 0 to 1, in a table "
        "of BirdNET, Raven, Audacity or CSV file,onset,offset,label,score, or a folder of these; "
        "repeatable (default: none)",
    )
    parsed = parser.parse_intermixed_args(arguments[1:])
    if parsed.median_filter is not None and not parsed.events:
        parser.error("--median_filter smooths what --events evaluates: give that, too")
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Scores, and writes and prints the metrics."""
    task = scoring_cli.open_task(arguments)
    teacher, source, index = task.teacher, task.source, task.source.index
    segmentation: AnySegmentation = task.segmentation
    seconds: float | str = task.segmentation.seconds
    if arguments.segment_seconds == "whole" and teacher.model:  # which takes clips of any length
        segmentation, seconds = WholeClips.of(index), "whole"
    if not index.is_labelled:
        raise UserError(
            f"no clip of split {arguments.split!r} has a known label: there is nothing to evaluate "
            "on it. psl-jax relabel scores clips without labels"
        )
    length = seconds if seconds == "whole" else f"{seconds:g}s"
    name = f"{teacher.name}-{arguments.split}-{length}"
    out = path_of(arguments.out or path_of("evaluations") / name)
    scorer = task.teacher.make_scorer(task.settings)
    scoring_cli.print_plan(task, segmentation, scorer=scorer, arguments=arguments, out=out)
    event_settings: dict[str, Any] = {}
    if arguments.events:
        event_evaluation.check_events(index)
        event_settings = event_evaluation.describe_settings(
            _get_model(teacher), arguments.median_filter
        )
    # Before anything is scored.
    tables = _read_tables(arguments.scores, index, model=teacher.name)
    if arguments.dry_run:
        return
    made_with = {
        "model": teacher.digest,
        "split": arguments.split,
        "segment_seconds": seconds,
        "dtype": arguments.dtype,
    }
    _refuse_other_results(out, made_with | {"clip_ids_sha256": index.ids_sha256})

    def write_and_print() -> None:
        events = None
        if arguments.events:
            events = event_evaluation.evaluate_model(
                _get_model(teacher), source, event_settings["median_filter"]
            )
        more = made_with | event_settings
        evaluation.write_results(out, index, scores, more, events)
        print("\n".join(_describe_metrics(out)))
        if arguments.events or arguments.scores:
            print(f"report: {run_page.write_run_report(out)}")
        if arguments.scores:
            _compare(out, teacher.name, index, tables, with_events=arguments.events)

    with run_files.claim_folder(out, "--out"):
        scores = evaluation.score_clips(
            scorer, source, segmentation, arguments.batch_size, "evaluate"
        )
        parallel.run_in_first_process("metrics", write_and_print)


def _refuse_other_results(out: pathlib.Path, made_with: Mapping[str, Any]) -> None:
    """Raises UserError where the folder is a run's, or has an evaluation of something else."""
    if (out / run_files.CONFIG).exists():
        raise UserError(f"{out} is the folder of a run. Give another --out")
    before = files.find_json(out / evaluation.METRICS)
    if before is None:
        return
    differing = [name for name, value in made_with.items() if before.get(name) != value]
    if differing:
        raise UserError(
            f"{out} holds results of another {' and '.join(differing)}. Give another --out"
        )


def _get_model(teacher: Teacher) -> Model:
    """Returns the model that `tag` runs. Raises UserError for another tagger."""
    if teacher.model is None:
        raise UserError(
            f"--events: {teacher.name} has no tags with times here. Evaluate a run or an export, "
            "and give the events that the other tagger wrote as --scores"
        )
    return teacher.model


def _read_tables(
    paths: Sequence[str], index: ClipIndex, *, model: str
) -> dict[str, tuple[str, TaggerTables]]:
    """Reads other taggers' tables: (path, table) by the tagger's name. Raises UserError.

    model: name of the model that they are compared with.
    """
    tables: dict[str, tuple[str, TaggerTables]] = {}
    for path in paths:
        tagger = path_of(path).stem
        if tagger in (model, *tables):
            raise UserError(f"--scores={path}: {tagger} is the name of another tagger: rename it")
        tables[tagger] = path, tagger_tables.read_tagger_tables(path, index)
    return tables


def _compare(
    out: pathlib.Path,
    name: str,
    index: ClipIndex,
    tables: Mapping[str, tuple[str, TaggerTables]],
    *,
    with_events: bool,
) -> None:
    """Evaluates other taggers' tables on the clips of the model's results in `out`."""
    from psl_jax.experiments import suite_results  # slow to import, and seldom needed

    folder = out / COMPARISON
    experiments = [{"name": name, "run_dirs": [".."], **files.read_json(out / evaluation.METRICS)}]
    # What is in a table was above its tagger's threshold.
    lowest = np.full(index.num_classes, np.finfo(np.float32).tiny)
    for tagger, (path, table) in tables.items():
        events = None
        if with_events:
            events = event_metrics.evaluate_events(table.steps, index, lowest)
        more = {"table": path, "lowest_score": table.lowest}
        metrics = evaluation.write_results(folder / tagger, index, table.clip_scores, more, events)
        files.write_json(folder / tagger / run_files.NOTES, table.notes)
        run_page.write_run_report(folder / tagger)
        experiments.append({"name": tagger, **metrics, "notes": table.notes})
    results = {
        "name": " and ".join(row["name"] for row in experiments),
        "experiments": experiments,
        "reference": name,
    }
    suite_results.add_intervals(results, folder)
    suite_results.write(results, folder)


def _describe_metrics(out: pathlib.Path) -> list[str]:
    """Describes the metrics in `out`, a line each."""
    metrics: Mapping[str, Any] = files.read_json(out / evaluation.METRICS)
    lines = [f"{name:10} {text}" for name, _, text in result_tables.list_metrics(metrics)]
    lines.append(f"{metrics['num_clips']:,} clips, ids {metrics['clip_ids_sha256'][:12]}…")
    written = f"{evaluation.METRICS}, {evaluation.PER_CLASS} and {evaluation.SCORES}"
    return ["", *lines, f"{written} in {out}"]
