"""Fits a classifier of the data's classes to the scores of a tagger with other classes.

    psl-jax fit mn:mn10_as.pt DATA --split=full --out=fitted.npz
    psl-jax relabel fitted:fitted.npz DATA --split=balanced --segment_seconds=2 --out=labels/2s
    psl-jax main --config configs/psl2s.py --config.teacher=fitted:fitted.npz ...

The classifier is a logistic regression for each class of the data. Its inputs are the logits of all
classes of the tagger; its targets are the weak labels of the split's clips. It needs no class map.
Five-fold cross-validation selects the penalty. The result is a teacher (docs/TEACHERS.md), which
needs the tagger's own file wherever it is used.
"""

import argparse
from collections.abc import Sequence

import jax

from psl_jax.data.clip_index import ClipIndex
from psl_jax.networks.class_lists import list_first
from psl_jax.runtime import disk_errors, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of
from psl_jax.scoring import evaluation
from psl_jax.teachers import fitted_teacher, scoring_cli
from psl_jax.teachers.fitted_teacher import FitResult

_FEW = 3  # clips of a class: what is fitted to fewer is hardly known


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = scoring_cli.make_parser("fit", __doc__ or "")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="file to write, FILE.npz (required)"
    )
    parsed = parser.parse_intermixed_args(arguments[1:])
    if not parsed.out.endswith(".npz"):
        parser.error(f"--out={parsed.out}: expected a name that ends in .npz")
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Scores, fits and writes."""
    task, tagger = scoring_cli.open_raw_task(arguments)
    index, scorer = task.source.index, task.teacher.make_scorer(task.settings)
    num_features = len(task.teacher.classes)
    regressions = f"{index.num_classes} logistic regressions on {num_features} features"
    megabytes = 12 * len(index) * num_features / 1e6
    scoring_cli.print_plan(
        task,
        task.segmentation,
        scorer=scorer,
        arguments=arguments,
        out=arguments.out,
        more=[f"fit     {regressions}, memory about {megabytes:,.0f} MB"],
    )
    if not index.class_counts().any():
        raise UserError(f"no clip of split {index.split!r} has a label: there is nothing to fit to")
    if arguments.dry_run:
        return
    if jax.process_index() == 0:
        disk_errors.check_writable(path_of(arguments.out).parent, "--out")
    scores = evaluation.score_clips(
        scorer,
        task.source,
        task.segmentation,
        arguments.batch_size,
        "score",
        num_classes=num_features,
    )

    def finish() -> None:
        features = fitted_teacher.compute_features(scores)
        fit_result = fitted_teacher.fit(features, index.weak_labels())
        about = {
            "split": index.split,
            "clips": len(index),
            "clip_ids_sha256": index.ids_sha256,
            "labels_sha256": index.labels_sha256,
            "penalty": fit_result.penalty,
            "held_out_mAP": fit_result.held_out[fit_result.penalty],
        }
        fitted_teacher.save(
            arguments.out,
            fit_result.classifier,
            classes=index.classes,
            tagger=tagger,
            segment_seconds=task.segmentation.seconds,
            fitted_to=about,
        )
        print("\n".join(describe_result(fit_result, index, arguments.out)))

    parallel.run_in_first_process("fitted", finish)


def describe_result(fit_result: FitResult, index: ClipIndex, out: str) -> list[str]:
    """What was found, in lines."""
    lines = ["", "penalty  mAP of clips held out"]
    for penalty, value in fit_result.held_out.items():
        mark = "  <- taken" if penalty == fit_result.penalty else ""
        lines.append(f"{penalty:7g}  {100 * value:6.2f} %{mark}")
    if fit_result.penalty == min(fit_result.held_out) and len(index) > 100:
        lines.append("note: the weakest penalty is the best one: more clips would be of use")
    counts = index.class_counts()
    if few := [name for name, n in zip(index.classes, counts, strict=True) if n < _FEW]:
        lines.append(f"note: {len(few)} classes have fewer than {_FEW} clips: {list_first(few)}")
    return [*lines, f"a teacher of {index.num_classes} classes: fitted:{out}"]
