"""Writes the report of a preparation: report.json for programs, report.txt for people."""

import collections
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.clip_rows import Problem, summarize
from psl_jax.data.clip_index import ClipIndex, repeated_audio, shared_clips
from psl_jax.runtime import files
from psl_jax.runtime.paths import path_of

REPORT_NAME = "report.json"
SUMMARY_NAME = "report.txt"
_FORMER_NAME = "preparation.json"  # the name in earlier versions


def read_report(data_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads the report of a prepared data set; returns None where there is none."""
    for name in (REPORT_NAME, _FORMER_NAME):
        path = path_of(data_dir) / name
        if path.exists():
            report: dict[str, Any] = files.read_json(path)
            return report
    return None


def write_report(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    files.write_json(folder / REPORT_NAME, report)
    with files.atomic_open(folder / SUMMARY_NAME, encoding="utf-8") as file:
        file.write("\n".join(summarize_report(report, examples=20)) + "\n")


def describe_split(
    index: ClipIndex, rows: int, *, problems: Iterable[Problem], rates: Mapping[int, int]
) -> dict[str, Any]:
    """Describes a split: clips, hours, labels, rates of the recordings, hash of the ids."""
    counts = index.class_counts()
    spread = counts if len(counts) else np.zeros(1, int)
    seconds = index.num_samples / SAMPLE_RATE
    return {
        "rows": rows,
        "clips": len(index),
        "hours": round(index.hours, 4),
        "seconds": {
            "min": round(float(seconds.min()), 3),
            "median": round(float(np.median(seconds)), 3),
            "max": round(float(seconds.max()), 3),
        },
        "source_rates": {str(rate): count for rate, count in sorted(rates.items())},
        "labels": int(counts.sum()),
        "clips_per_class": {
            "min": int(spread.min()),
            "median": float(np.median(spread)),
            "max": int(spread.max()),
        },
        "classes_without_clips": int((counts == 0).sum()),
        "label_counts": dict(zip(index.classes, counts.tolist(), strict=True)),
        "unknown_labels": 0 if index.unknown_values is None else len(index.unknown_values),
        "events": 0 if index.event_values is None else len(index.event_values),
        "shards": len(index.shard_sizes),
        "problems": dict(collections.Counter(problem.kind for problem in problems).most_common()),
        "clip_ids_sha256": index.ids_sha256,
    }


def find_same_audio(indices: Sequence[ClipIndex], examples: int = 5) -> list[dict[str, Any]]:
    """Finds splits that share clips, by id or audio, and splits with the same audio twice."""
    findings = []
    for number, index in enumerate(indices):
        repeated = repeated_audio(index)
        pairs = [(index, index, repeated)] + [
            (other, index, shared_clips(other, index)) for other in indices[:number]
        ]
        findings += [
            {
                "splits": [a.split, b.split],
                "clips": len(shared),
                "examples": [[str(a.ids[i]), str(b.ids[j])] for i, j in shared[:examples]],
            }
            for a, b, shared in pairs
            if len(shared)
        ]
    return findings


def _format_same_audio(finding: Mapping[str, Any]) -> str:
    (first, second), clips = finding["splits"], finding["clips"]
    a, b = finding["examples"][0]
    names = a if a == b else f"{a} and {b}"
    if first == second:
        return f"  {first}: {clips} clips hold the audio of another one, such as {names}"
    return f"  {first} and {second} share {clips} clips, such as {names}"


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
        lines.append(f"    sha256 of the ids: {split['clip_ids_sha256']}")
    if shared := report.get("same_audio"):
        lines.append("the same audio:")
        lines += [_format_same_audio(finding) for finding in shared]
    if report["problems"]:
        lines.append("problems:")
        lines += summarize(report["problems"], examples)
    return lines
