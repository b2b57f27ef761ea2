"""Writes the report of a preparation: report.json for programs, report.txt for people."""

import collections
import dataclasses
import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.corpora.corpus import Corpus, Problem
from psl_jax.data.clip_index import ClipIndex, joined
from psl_jax.networks.class_lists import near_names
from psl_jax.runtime import files
from psl_jax.runtime.paths import path_of

REPORT_NAME = "report.json"
SUMMARY_NAME = "report.txt"
_MOST_CLASSES = 40  # in the table of a report


def read_report(data_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the report of a prepared data set; returns None where there is none."""
    path = path_of(data_dir) / REPORT_NAME
    report: dict[str, Any] | None = files.read_json(path) if path.exists() else None
    return report


def write_report(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    files.write_json(folder / REPORT_NAME, report)
    with files.atomic_open(folder / SUMMARY_NAME, encoding="utf-8") as file:
        file.write("\n".join(summarize_report(report, examples=len(report["problems"]))) + "\n")


def describe(
    corpus: Corpus,
    indices: Mapping[str, ClipIndex],
    problems: Mapping[str, Sequence[Problem]],
    unions: Mapping[str, Sequence[str]],
    *,
    settings: Mapping[str, Any],
    num_rows: Mapping[str, int],
) -> dict[str, Any]:
    """Describes what was made of a corpus.

    indices: those of all stored splits. problems, num_rows: of those that were made now.
    unions: stored splits of those that are several of them.
    """
    later_members = {name for names in unions.values() for name in names[1:]}
    members = {split: [split] for split in problems if split not in later_members} | dict(unions)
    reports = {}
    for split, names in members.items():
        # Some of these splits may have no clips.
        splits_of_corpus = {split, *corpus.unions.get(split, names)}
        kinds = [problem.kind for name, problem in corpus.problems if name in splits_of_corpus]
        for name in names:
            kinds += [problem.kind for problem in problems[name]]
        rows = sum(num_rows[name] for name in names)
        rows += sum(corpus.absent.get(name, 0) for name in splits_of_corpus)
        index = indices.get(split) or joined([indices[name] for name in names], split)
        reports[split] = _describe_split(index, rows) | {
            "problems": dict(collections.Counter(kinds).most_common()),
        }
    of_rows = [(split, problem) for split in problems for problem in problems[split]]
    return {
        "corpus": corpus.name,
        "settings": settings,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "classes": len(corpus.classes),
        "splits": reports,
        "unions": unions,
        "problems": [
            {"split": split} | dataclasses.asdict(problem)
            for split, problem in [*corpus.problems, *of_rows]
        ],
    }


def _describe_split(index: ClipIndex, rows: int) -> dict[str, Any]:
    """Describes a split: clips, hours, labels, hash of the ids."""
    counts = index.class_counts()
    spread = counts if len(counts) else np.zeros(1, int)
    return {
        "rows": rows,
        "clips": len(index),
        "hours": round(index.hours, 4),
        "clips_per_class": {
            "min": int(spread.min()),
            "median": float(np.median(spread)),
            "max": int(spread.max()),
        },
        "label_counts": dict(zip(index.classes, counts.tolist(), strict=True)),
        "unknown_labels": 0 if index.unknown_values is None else len(index.unknown_values),
        "events": 0 if index.event_values is None else len(index.event_values),
        "clip_ids_sha256": index.ids_sha256,
    }


def compute_lost_share(split: Mapping[str, Any]) -> float:
    """Computes the share of the clips in the corpus's tables that the split lacks."""
    return 1 - float(split["clips"]) / max(int(split["rows"]), 1)


def summarize_report(report: Mapping[str, Any], examples: int = 3) -> list[str]:
    """Formats the report for people, with the first `examples` problems of each kind."""
    lines = [f"{report['corpus']}, {report['classes']} classes"]
    for name, split in report["splits"].items():
        counts = split["clips_per_class"]
        lines.append(
            f"  {name}: {split['clips']} of {split['rows']} clips, {split['hours']:.2f} h, clips "
            f"per class {counts['min']} / {counts['median']:g} / {counts['max']} "
            "(min / median / max)" + (f", {split['events']} events" if split["events"] else "")
        )
        if unknown := split.get("unknown_labels"):
            share = 100 * unknown / (split["clips"] * report["classes"])
            lines.append(f"    {unknown:,} labels are unknown, {share:.1f} % of all")
        if split["clips"] < split["rows"]:
            lines.append(f"    {100 * compute_lost_share(split):.2f} % of its clips are not there")
    if report["corpus"] == "own_data" and report["classes"]:
        stored = {n: x for n, x in report["splits"].items() if n not in report.get("unions", {})}
        lines += _count_classes({name: split["label_counts"] for name, split in stored.items()})
    if report["problems"]:
        lines.append("problems:")
        lines += _summarize_problems(report["problems"], examples)
    return lines


def _count_classes(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Tables the clips of each class in each split, and names classes too rare to be evaluated."""
    classes = list(next(iter(counts.values())))
    width = max(map(len, classes))
    lines = [f"  {'clips':{width}}  " + "  ".join(f"{split:>10}" for split in counts)]
    for name in classes[:_MOST_CLASSES]:
        cells = "  ".join(f"{of_split[name]:>10}" for of_split in counts.values())
        lines.append(f"  {name:{width}}  {cells}")
    if len(classes) > _MOST_CLASSES:
        lines.append(f"  ... and {len(classes) - _MOST_CLASSES} more classes")
    evaluated = [split for split in counts if split in ("validation", "eval")]
    if rare := [n for n in classes if not all(counts[split][n] for split in evaluated)]:
        others = [name for name in classes if name not in rare]  # which a misspelt one may mean
        lines.append(
            f"  too rare to be evaluated, as {' or '.join(evaluated)} has no clip of them: "
            f"{', '.join(name + near_names(name, others) for name in rare)}"
        )
    return lines


def _summarize_problems(problems: Sequence[Mapping[str, Any]], examples: int) -> list[str]:
    """Counts problems by kind and shows the first `examples` of each."""
    by_kind: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for problem in problems:
        by_kind[problem["kind"]].append(problem)
    lines = []
    for kind, of_kind in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        lines.append(f"  {kind}: {len(of_kind)}")
        for problem in of_kind[:examples]:
            split = "" if problem["split"] is None else f"{problem['split']}: "
            lines.append(f"    {split}{problem['file']}: {problem['detail']}")
        if len(of_kind) > examples:
            lines.append(f"    ... and {len(of_kind) - examples} more")
    return lines
