"""Scores a split of a data set with a model, and prints the metrics.

    psl-jax evaluate runs/psl2s DATA --split=eval --segment_seconds=2
    psl-jax evaluate published.pt DATA --segment_seconds=whole --out=published
    psl-jax evaluate mn:mn10_as.pt DATA --segment_seconds=10 --class_map=CLASSES.csv

A clip's score is the mean of the scores of its segments. The command writes metrics.json,
per_class.csv and scores.npz (ids, classes, scores, targets). The same command continues an
evaluation that was stopped, and several processes can share one (--distributed). The data may have
fewer classes than the model, in another order: classes are matched by name.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.runtime import cli_entry
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    from psl_jax.teachers import scoring_cli

    parser = scoring_cli.make_parser("evaluate", __doc__ or "", split="eval")
    parser.add_argument(
        "--segment_seconds",
        default="training",
        metavar="S",
        help="length of the segments in seconds, or whole for whole clips, or training for the "
        "length that the model was trained on (default: training)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder where the results are written (default: "
        "evaluations/<model>-<split>-<segments>)",
    )
    parsed = scoring_cli.parse_arguments(parser, arguments)
    if parsed.unmapped == "weak":
        parser.error("--unmapped=weak is for relabel: scores of weak labels would be none")
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Scores, and writes and prints the metrics."""
    import jax

    from psl_jax.data.whole_clips import WholeClips
    from psl_jax.runtime import parallel, run_files
    from psl_jax.scoring import evaluation
    from psl_jax.scoring.resumable_scores import StoredScores, score_missing
    from psl_jax.teachers import scoring_cli
    from psl_jax.teachers.psl_teacher import OwnTeacher

    task = scoring_cli.open_task(arguments, arguments.segment_seconds)
    teacher, source, cut = (
        task.teacher,
        task.source,
        task.choose_segmentation(arguments.segment_seconds),
    )
    seconds = "whole" if isinstance(cut, WholeClips) else cut.seconds
    length = seconds if seconds == "whole" else f"{seconds:g}s"
    name = f"{teacher.name}-{arguments.split}-{length}"
    if not source.index.is_labelled:
        raise UserError(
            f"no clip of split {arguments.split!r} has a known label: there is nothing to evaluate "
            "on it. psl-jax relabel scores clips without labels"
        )
    out = path_of(arguments.out or path_of("evaluations") / name)
    scorer = task.make_scorer(arguments)
    if jax.process_index() == 0:
        print(
            "\n".join(
                scoring_cli.describe_plan(task, cut, scorer=scorer, arguments=arguments, out=out)
            ),
            flush=True,
        )
    if arguments.dry_run:
        return
    made_with = {
        "model": teacher.digest,
        "split": arguments.split,
        "segment_seconds": seconds,
        "dtype": arguments.dtype,
    }
    scorer_description: dict[str, Any] = {"teachers": teacher.describe()}
    if isinstance(teacher, OwnTeacher):
        scorer_description = {"front_end": dataclasses.asdict(teacher.model.info.logmel)}
    stored = StoredScores(out, source.index, made_with | scorer_description)
    finished = stored.begun and (out / evaluation.METRICS).exists()

    def tell() -> None:
        if not finished:
            evaluation.write_results(out, source.index, stored.read(), made_with)
            stored.forget()
        print("\n".join(describe_metrics(out)))

    with run_files.claim_folder(out, "--out"):
        if not finished:
            stored.begin()
            score_missing(scorer, source, cut, stored, arguments.batch_size, "evaluate")
        parallel.run_in_first_process("metrics", tell)


def describe_metrics(out: pathlib.Path) -> list[str]:
    """The metrics in `out`, a line each."""
    from psl_jax.runtime import files
    from psl_jax.scoring import evaluation

    metrics: Mapping[str, Any] = files.read_json(out / evaluation.METRICS)
    percents = {"mAP": "mAP", "mAP_at_3": "mAP@3", "lwlrap": "lwlrap"}
    lines = [
        f"{shown:8} {100 * metrics[key]:7.2f} %"
        for key, shown in percents.items()
        if metrics.get(key) is not None
    ]
    for key, shown in (("AUC", "AUC"), ("d_prime", "d'")):
        if metrics.get(key) is not None:
            lines.append(f"{shown:8} {metrics[key]:7.3f}")
    lines.append(f"{metrics['num_clips']:,} clips, ids {metrics['clip_ids_sha256'][:12]}…")
    written = f"{evaluation.METRICS}, {evaluation.PER_CLASS} and {evaluation.SCORES}"
    return ["", *lines, f"{written} in {out}"]


if __name__ == "__main__":
    cli_entry.run(main, parse, takes_buckets=True)
