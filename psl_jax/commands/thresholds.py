"""Finds a threshold for each class on a validation split, and stores them with the model.

    psl-jax thresholds runs/psl2s DATA --split=SPLIT
    psl-jax thresholds runs/psl2s DATA --split=SPLIT --csv=thresholds.csv
    psl-jax thresholds runs/psl2s --reset

Each class gets the threshold of highest F1: over frames of 0.32 s where the split has true events,
else over whole clips, where a clip has a class if one of its frames reaches the threshold. Classes
that the split lacks get the threshold that is best for all classes together. Tagging in the
terminal, in Python and on the page uses the stored thresholds by default, and exports and published
folders keep them. MODEL is a run folder; of other models --dry_run --csv=FILE writes them to a
table, which psl-jax tag --thresholds=FILE takes. Choose a split whose clips the model was not
trained on.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.corrections import Corrections
from psl_jax.data.source import Source, open_folder
from psl_jax.networks.trained_model import Model, Thresholds
from psl_jax.reporting import result_tables
from psl_jax.reporting.result_tables import Table
from psl_jax.runtime import cli_entry, disk_errors, distributed, files, run_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.tagging import tagging_cli, threshold_tuning
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.tagger import Tagger
from psl_jax.tagging.threshold_tuning import MEDIAN_FILTER, Counts, TuningResult
from psl_jax.weights import orbax_folder
from psl_jax.weights.load_model import load_model

_MOST_LINES = 60  # of classes that are shown


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("thresholds", __doc__ or "")
    add = parser.add_argument
    add("data", metavar="DATA", nargs="?", help=f"{cli_entry.DATA_HELP} (not with --reset)")
    add(
        "--split",
        default="balanced",
        help="split to tune on (default: balanced, on which students are trained; thresholds are "
        "better from one that the model was not trained on, such as validation)",
    )
    tagging_cli.add_smoothing(parser, default=MEDIAN_FILTER)
    add(
        "--corrections",
        metavar="FILES",
        help="tables of psl-jax review, with commas between, that correct the weak labels first "
        "(default: none)",
    )
    add(
        "--csv",
        metavar="FILE",
        help="CSV to write: each class's threshold and scores (default: none)",
    )
    add(
        "--reset",
        action="store_true",
        help="remove the stored thresholds; all classes use 0.5 again",
    )
    add("--dry_run", action="store_true", help="print the thresholds, and store nothing")
    parsed = parser.parse_intermixed_args(arguments[1:])
    if not parsed.data and not parsed.reset:
        parser.error("the following arguments are required: DATA")
    if parsed.reset and (parsed.data or parsed.dry_run or parsed.csv or parsed.corrections):
        parser.error("--reset only removes the stored thresholds: leave out DATA and other options")
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Tunes the thresholds, prints and stores them."""
    EventSettings(median_filter=arguments.median_filter)  # raises for an even number
    distributed.configure()
    if arguments.reset:
        print(f"thresholds forgotten: {orbax_folder.store_thresholds(arguments.model, None)}")
        return
    model = load_model(arguments.model)
    if not arguments.dry_run:
        orbax_folder.check_thresholds_writable(arguments.model)
    if arguments.csv:
        disk_errors.check_writable(path_of(arguments.csv).parent, "--csv")
    source = _open_source(arguments)
    index, unit = source.index, threshold_tuning.choose_unit(source.index)
    tuning = threshold_tuning.tune(_count_scores(model, arguments, source), unit)
    table = _tabulate_classes(index.classes, tuning)
    stored_in = None if arguments.dry_run else _store(model, arguments, index, tuning)
    if arguments.csv:
        files.write_csv(arguments.csv, table.header, table.rows)
    print("\n".join(_describe_tuning(index, tuning, table)))
    if num_missing := len(model.classes) - int(tuning.has_clips.sum()):
        counted = "annotated clips" if tuning.unit == "rows" else "clips"
        print(
            f"classes of the model without {counted} in the split: {num_missing}. They have "
            f"{tuning.common:.4g}, the best for all others together"
        )
    data = run_files.read_config(arguments.model).get("data", {})
    if arguments.split in str(data.get("train_split", "")).split("+"):
        print(
            f"note: the model was trained on split {arguments.split!r}: it is surer of these clips "
            "than of others, and these figures are too good. Tune on others"
        )
    if stored_in:
        print(f"stored in {stored_in}")
    if arguments.csv:
        print(f"all classes in {arguments.csv}")


def _store(
    model: Model, arguments: argparse.Namespace, index: ClipIndex, tuning: TuningResult
) -> object:
    """Stores the thresholds with the model; returns where."""
    by_class = dict(zip(index.classes, map(float, tuning.thresholds), strict=True))
    tuned_on = {
        "split": index.split,
        "clips": _count_clips(index, tuning.unit),
        "clip_ids_sha256": index.ids_sha256,
        "f1_of": tuning.unit,
        "median_filter": arguments.median_filter,
        "model_digest": model.digest,
    }
    values = tuple(by_class.get(name, tuning.common) for name in model.classes)
    return orbax_folder.store_thresholds(arguments.model, Thresholds(values, tuned_on))


def _open_source(arguments: argparse.Namespace) -> Source:
    """Opens the split with the decisions of people; prints what of these has no effect."""
    source = open_folder(arguments.data, arguments.split, run=arguments.model)
    if not arguments.corrections:
        return source
    corrections = Corrections.read(arguments.corrections)
    for problem in corrections.describe_problems([source.index]):
        print(f"note: {problem}")
    if threshold_tuning.choose_unit(source.index) == "rows":
        raise UserError(
            f"--corrections={arguments.corrections}: split {source.index.split!r} has true events, "
            "with which thresholds are tuned, and decisions change labels alone. Correct the "
            "tables of events, or leave --corrections out"
        )
    return source.with_index(corrections.correct(source.index))


def _count_scores(model: Model, arguments: argparse.Namespace, source: Source) -> Counts:
    """Counts the scores of a split. Raises UserError where it has none of the model's classes."""
    tagger = Tagger(model.for_classes(source.index.classes))
    counts = threshold_tuning.count_scores(tagger, source, arguments.median_filter)
    if not counts.num_true.any():
        raise UserError(
            f"no clip of split {source.index.split!r} has a label: no threshold can be tuned on it"
        )
    return counts


def _count_clips(index: ClipIndex, unit: str) -> int:
    """Counts the clips that F1 counts: by rows those with true events."""
    return int(index.annotated.sum()) if unit == "rows" else len(index)


def _count_clips_by_class(index: ClipIndex, unit: str) -> np.ndarray:
    """Counts, of these clips, those with each class: [classes]."""
    if unit != "rows":
        return index.class_counts()
    labels = index.weak_labels(np.flatnonzero(index.annotated))
    return np.asarray((labels > 0).sum(axis=0))


def _tabulate_classes(classes: Sequence[str], tuning: TuningResult) -> Table:
    """Makes a row for each class; those without clips have no F1."""
    columns = (classes, tuning.thresholds, tuning.f1, tuning.f1_default, tuning.num_true)
    rows = [
        [name, f"{threshold:.4g}", *(f"{x:.3f}" if num_true else "" for x in f1), f"{num_true}"]
        for name, threshold, *f1, num_true in zip(*columns, strict=True)
    ]
    header = ["class", "threshold", "F1", "F1 at 0.5", f"true {tuning.unit}"]
    return Table(header, [False, True, True, True, True], rows)


def _describe_tuning(index: ClipIndex, tuning: TuningResult, table: Table) -> list[str]:
    """Describes the result in lines."""
    is_by_rows, has_clips = tuning.unit == "rows", tuning.has_clips
    unit = "frames of 0.32 s (true events)" if is_by_rows else "clips (weak labels)"
    num_clips = _count_clips(index, tuning.unit)
    of_all = "" if num_clips == len(index) else f" of {len(index):,}"
    lines = [f"F1 of {unit}, {index.split}: {num_clips:,}{of_all} clips, {has_clips.sum()} classes"]
    if len(table.rows) <= _MOST_LINES:
        lines.append(result_tables.format_plain(table))
    lines.append(
        f"mean F1 {tuning.f1[has_clips].mean():.3f} with these thresholds (tuned on the same "
        f"clips), {tuning.f1_default[has_clips].mean():.3f} with 0.5"
    )
    counts = _count_clips_by_class(index, tuning.unit)
    if num_rough := int((has_clips & (counts <= threshold_tuning.FEW_CLIPS)).sum()):
        lines.append(
            f"classes with {threshold_tuning.FEW_CLIPS} clips or fewer, whose thresholds are "
            f"rough: {num_rough}"
        )
    return lines
