"""Finds a threshold for each class on a validation split, and stores them with the model.

    psl-jax thresholds runs/psl2s DATA --split=SPLIT
    psl-jax thresholds runs/psl2s DATA --split=SPLIT --test_split=eval --csv=thresholds.csv
    psl-jax thresholds runs/psl2s --reset

Each class gets the threshold of highest F1: over frames of 0.32 s where the split has true events,
else over whole clips, where a clip has a class if one of its frames reaches the threshold. Classes
that the split lacks get the threshold that is best for all classes together. Tagging in the
terminal, in Python and on the page uses the stored thresholds by default, and exports and published
folders keep them. MODEL is a run folder, a .safetensors or a .pt. Choose a split whose clips the
model was not trained on.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from psl_jax.runtime import cli_entry, files, run_files
from psl_jax.runtime.errors import UserError

_MOST_LINES = 60  # of classes that are shown


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    from psl_jax.tagging import tagging_cli
    from psl_jax.tagging.threshold_tuning import MEDIAN_FILTER

    parser = tagging_cli.make_parser("thresholds", __doc__ or "")
    add = parser.add_argument
    add("data", metavar="DATA", nargs="?", help="folder of a prepared data set (not with --reset)")
    add(
        "--split", default="balanced", help="split that thresholds are tuned on (default: balanced)"
    )
    add(
        "--test_split",
        metavar="SPLIT",
        help="another split whose F1 with these thresholds is printed too (default: none)",
    )
    tagging_cli.add_smoothing(parser, default=MEDIAN_FILTER)
    add(
        "--corrections",
        metavar="FILES",
        help="tables of decisions of people (psl-jax review), separated by commas, by which the "
        "weak labels are corrected (default: none)",
    )
    add("--csv", metavar="FILE", help="file for the table of all classes (default: none)")
    add(
        "--reset",
        action="store_true",
        help="remove the stored thresholds: each class has 0.5 again",
    )
    add("--dry_run", action="store_true", help="print the thresholds, and store nothing")
    parsed = tagging_cli.parse_arguments(parser, arguments)
    if not parsed.data and not parsed.reset:
        parser.error("the following arguments are required: DATA")
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Tunes, tells and stores."""
    from psl_jax.runtime import distributed
    from psl_jax.tagging import threshold_tuning
    from psl_jax.tagging.events import EventSettings
    from psl_jax.weights import stored_thresholds
    from psl_jax.weights.load_model import load_model

    EventSettings(median_filter=arguments.median_filter)
    distributed.configure()
    if arguments.reset:
        print(f"thresholds forgotten: {stored_thresholds.store_thresholds(arguments.model, None)}")
        return
    model = load_model(arguments.model)
    if not arguments.dry_run:
        stored_thresholds.check_writable(arguments.model)
    splits = [arguments.split, *([arguments.test_split] if arguments.test_split else [])]
    sources = _open_sources(arguments, splits)
    index, counts = _counts(model, arguments, sources[0])
    tuning = threshold_tuning.tune(counts, threshold_tuning.choose_unit(index))
    test = None
    if arguments.test_split:
        other, test_counts = _counts(model, arguments, sources[1])
        if other.classes != index.classes or threshold_tuning.choose_unit(other) != tuning.unit:
            raise UserError(
                f"--test_split={arguments.test_split} has other classes or another kind of truth "
                f"than {arguments.split}: F1 cannot be compared"
            )
        test = threshold_tuning.tune(test_counts, tuning.unit)._replace(
            f1=threshold_tuning.compute_f1_at(test_counts, tuning.thresholds)
        )
    tuned_on = {
        "split": index.split,
        "clips": _count_units(index, tuning.unit),
        "clip_ids_sha256": index.ids_sha256,
        "f1_of": tuning.unit,
        "median_filter": arguments.median_filter,
        "model_digest": model.digest,
    }
    header, rows = tabulate_classes(index.classes, tuning, test)
    if arguments.csv:
        files.write_csv(arguments.csv, header, rows)
    print("\n".join(describe_tuning(index, tuning, test, arguments.test_split, rows)))
    if others := len(set(model.classes) - set(index.classes)):
        print(
            f"{others} of the model's classes are not in these data: they have "
            f"{tuning.common:.4g}, the best for all of these together"
        )
    if _was_trained_on(arguments.model, arguments.split):
        print(
            f"note: the model was trained on split {arguments.split!r}: it is surer of these clips "
            "than of others, and these figures are too good. Tune on clips it has not heard"
        )
    if not arguments.dry_run:
        model_tuning = extend_to_model(model, index.classes, tuning).as_thresholds(tuned_on)
        print(f"stored in {stored_thresholds.store_thresholds(arguments.model, model_tuning)}")
    if arguments.csv:
        print(f"all classes in {arguments.csv}")


def _count_units(index: Any, unit: str) -> int:
    """Clips that F1 counts: by rows those with true events."""
    return int(index.annotated.sum()) if unit == "rows" else len(index)


def _was_trained_on(path: str, split: str) -> bool:
    """Whether a run folder's config says so."""
    data = run_files.read_config(path).get("data", {})
    return split in str(data.get("train_split", "")).split("+")


def _open_sources(arguments: argparse.Namespace, splits: Sequence[str]) -> list[Any]:
    """The splits with the decisions of people; prints what of these has no effect."""
    from psl_jax.data.corrections import Corrections
    from psl_jax.data.source import open_folder
    from psl_jax.tagging import threshold_tuning

    sources = [open_folder(arguments.data, split) for split in splits]
    if not arguments.corrections:
        return sources
    corrections = Corrections.read(arguments.corrections)
    for problem in corrections.describe_problems([source.index for source in sources]):
        print(f"note: {problem}")
    for source in sources:
        if threshold_tuning.choose_unit(source.index) == "rows":
            raise UserError(
                f"--corrections={arguments.corrections}: split {source.index.split!r} has true "
                "events, with which thresholds are tuned, and decisions change labels alone. "
                "Correct the tables of events, or leave --corrections out"
            )
    return [source.with_index(corrections.correct(source.index)) for source in sources]


def _counts(model: Any, arguments: argparse.Namespace, source: Any) -> tuple[Any, Any]:
    """Index and counts of a split. Raises UserError where it has none of the model's classes."""
    from psl_jax.tagging import threshold_tuning
    from psl_jax.tagging.events import EventSettings
    from psl_jax.tagging.tagger import Tagger

    tagger = Tagger(model.for_classes(source.index.classes))
    counts = threshold_tuning.count_scores(
        tagger, source, EventSettings(median_filter=arguments.median_filter), show_bar=True
    )
    if not counts.num_true.any():
        raise UserError(
            f"no clip of split {source.index.split!r} has a label: no threshold can be tuned on it"
        )
    return source.index, counts


def extend_to_model(model: Any, classes: Sequence[str], tuning: Any) -> Any:
    """What was found of the data's classes, for all of the model's: others have the common one."""
    place = {name: i for i, name in enumerate(classes)}
    values = [
        tuning.thresholds[place[name]] if name in place else tuning.common for name in model.classes
    ]
    return tuning._replace(thresholds=np.array(values))


def tabulate_classes(
    classes: Sequence[str], tuning: Any, test: Any
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Header and a row for each class."""
    unit = tuning.unit
    header = ["class", "threshold", "F1", "F1 at 0.5", f"true {unit}"]
    rows = [
        (
            name,
            f"{tuning.thresholds[i]:.4g}",
            *(
                (f"{tuning.f1[i]:.3f}", f"{tuning.f1_default[i]:.3f}")
                if tuning.has_clips[i]
                else ("", "")
            ),
            int(tuning.num_true[i]),
            *(() if test is None else (f"{test.f1[i]:.3f}" if test.has_clips[i] else "",)),
        )
        for i, name in enumerate(classes)
    ]
    return header if test is None else [*header, "F1 on the test split"], rows


def describe_tuning(
    index: Any, tuning: Any, test: Any, test_split: str, rows: list[tuple[Any, ...]]
) -> list[str]:
    """What was found, in lines."""
    from psl_jax.tagging import threshold_tuning

    unit = "frames of 0.32 s (true events)" if tuning.unit == "rows" else "clips (weak labels)"
    counted = _count_units(index, tuning.unit)
    clips = (
        f"{counted:,} clips" if counted == len(index) else f"{counted:,} of {len(index):,} clips"
    )
    lines = [f"F1 of {unit}, {index.split}: {clips}, {int(tuning.has_clips.sum())} classes"]
    width = min(max(len(name) for name in index.classes), 40)
    if len(rows) <= _MOST_LINES:
        counted_unit = "rows" if tuning.unit == "rows" else "clips"
        lines.append(f"  {'class':{width}}  threshold     F1  at 0.5  {counted_unit} that have it")
        lines += [
            f"  {name[:width]:{width}}  {threshold:>9}  {f1:>5}   {at:>5}  {true:>5}"
            for name, threshold, f1, at, true, *_ in rows
        ]
    has_positives = tuning.has_clips
    lines.append(
        f"mean F1 {tuning.f1[has_positives].mean():.3f} with these thresholds (tuned on the same "
        f"clips), {tuning.f1_default[has_positives].mean():.3f} with 0.5"
    )
    if test is not None:
        both = test.has_clips
        lines.append(
            f"{test_split}: mean F1 {test.f1[both].mean():.3f} with these thresholds, "
            f"{test.f1_default[both].mean():.3f} with 0.5"
        )
    if missing := int((~has_positives).sum()):
        lines.append(
            f"{missing} classes are not in the split: they have {tuning.common:.4g}, the best for "
            "all together"
        )
    few = has_positives & (index.class_counts() <= threshold_tuning.FEW_CLIPS)
    if few.any():
        lines.append(
            f"{int(few.sum())} classes have {threshold_tuning.FEW_CLIPS} clips or fewer: their "
            "thresholds are rough"
        )
    return lines


if __name__ == "__main__":
    cli_entry.run(main, parse)
