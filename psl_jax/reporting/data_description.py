"""What is in a prepared data set, as lines to print."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import preparation_report

_EXAMPLES = 5


def describe(data_dir: str | os.PathLike[str]) -> list[str]:
    """Describes each split in lines: clips, durations, rates, examples, and clips of each class.

    Raises UserError where `data_dir` is no prepared data set.
    """
    reports = (preparation_report.read_report(data_dir) or {}).get("splits", {})
    names = split_index_files.splits(data_dir)
    indices = {name: split_index_files.load_index(data_dir, name) for name in names}
    indices = dict(sorted(indices.items(), key=lambda item: -len(item[1])))  # the largest first
    lines = [os.fspath(data_dir)]
    for name, index in indices.items():
        lines += _describe_split(name, index, reports.get(name, {}))
    lines.append("\n" + "  ".join(f"{name:>9}" for name in indices) + "  clips with")
    classes = next(iter(indices.values())).classes
    counts = np.stack([index.class_counts() for index in indices.values()], axis=1)
    # The most frequent in the largest split come first.
    order = sorted(range(len(classes)), key=lambda k: (*(-counts[k]).tolist(), k))
    for label in order:
        lines.append("  ".join([*(f"{count:9d}" for count in counts[label]), classes[label]]))
    return lines


def _describe_split(name: str, index: ClipIndex, report: Mapping[str, Any]) -> list[str]:
    """report: of the preparation; empty for data sets that something else prepared."""
    seconds = index.num_samples / SAMPLE_RATE
    low, middle, high = np.percentile(seconds, (0, 50, 100))
    rates, problems = report.get("source_rates") or {}, report.get("problems") or {}
    num_events = 0 if index.event_values is None else len(index.event_values)
    num_unknown = 0 if index.unknown_values is None else len(index.unknown_values)
    facts = {
        "seconds a clip (min / median / max)": f"{low:.2f} / {middle:.2f} / {high:.2f}",
        "rates of the recordings": ", ".join(
            f"{int(rate) / 1000:g} kHz: {count}" for rate, count in rates.items()
        ),
        "events": f"{num_events:,}" if num_events else "",
        "unknown labels": f"{num_unknown:,}" if num_unknown else "",
        "problems": ", ".join(f"{problem}: {count:,}" for problem, count in problems.items()),
        "SHA-256 of the ids": index.ids_sha256,
    }
    lines = [f"\n{name}: {len(index)} clips, {index.hours:.2f} h"]
    lines += [f"  {fact}: {value}" for fact, value in facts.items() if value]
    for clip in np.unique(np.linspace(0, len(index) - 1, _EXAMPLES).astype(int)):
        labels = index.label_values[slice(*index.label_offsets[clip : clip + 2])]
        named = "; ".join(index.classes[label] for label in labels)
        lines.append(f"  {index.ids[clip]}, {seconds[clip]:.2f} s: {named}")
    return lines
