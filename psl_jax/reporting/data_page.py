"""What is in a prepared data set: as lines to print, and as one self-contained HTML page."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data import split_index_files as index_lib
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import preparation_report
from psl_jax.reporting import figures, result_tables, run_page
from psl_jax.reporting.figures import Caption, Figure, Series
from psl_jax.runtime.paths import path_of

PAGE_NAME = "description.html"
_EXAMPLES = 5
_PRINTED_CLASSES = 30  # the most and least frequent ones of a longer list


@dataclasses.dataclass(frozen=True)
class _Split:
    """A split with what is known of its recordings."""

    index: ClipIndex
    report: Mapping[str, Any]  # empty for data sets that something else prepared

    @property
    def seconds(self) -> np.ndarray:
        return self.index.num_samples / SAMPLE_RATE

    def list_facts(self) -> list[tuple[str, str]]:
        """Lists (name, value) of what is known."""
        index = self.index
        rows, rates = self.report.get("rows"), self.report.get("source_rates") or {}
        problems = self.report.get("problems") or {}
        low, middle, high = np.percentile(self.seconds, (0, 50, 100))
        of_rows = "" if rows is None else f" of {rows:,} that its table names"
        facts = {
            "clips": f"{len(index):,}{of_rows}",
            "hours": f"{index.hours:.2f}",
            "seconds a clip (min / median / max)": f"{low:.2f} / {middle:.2f} / {high:.2f}",
            "rates of the recordings": ", ".join(
                f"{int(rate) / 1000:g} kHz: {count}" for rate, count in rates.items()
            ),
            "events": "" if index.event_values is None else f"{len(index.event_values):,}",
            "unknown labels": ""
            if index.unknown_values is None
            else f"{len(index.unknown_values):,}",
            "problems": ", ".join(f"{name}: {count:,}" for name, count in problems.items()),
            "SHA-256 of the ids": index.ids_sha256,
        }
        return [(name, value) for name, value in facts.items() if value]

    def list_examples(self) -> list[tuple[str, str, str]]:
        """Lists (id, seconds, labels) of clips spread over the split."""
        clips = np.unique(np.linspace(0, len(self.index) - 1, _EXAMPLES).astype(int))
        offsets, values = self.index.label_offsets, self.index.label_values
        labels = [values[offsets[clip] : offsets[clip + 1]] for clip in clips]
        return [
            (
                str(self.index.ids[clip]),
                f"{self.seconds[clip]:.2f}",
                "; ".join(self.index.classes[label] for label in of_clip),
            )
            for clip, of_clip in zip(clips, labels, strict=True)
        ]


def describe(data_dir: str | os.PathLike[str]) -> list[str]:
    """Describes each split in lines: clips, durations, rates, classes, examples.

    Raises UserError where `data_dir` is no prepared data set.
    """
    splits = _open_splits(data_dir)
    lines = [os.fspath(data_dir)]
    for name, split in splits.items():
        lines.append(f"\n{name}: {len(split.index)} clips, {split.index.hours:.2f} h")
        lines += [f"  {fact}: {value}" for fact, value in split.list_facts()[2:]]
        lines += [f"  {clip}, {time} s: {labels}" for clip, time, labels in split.list_examples()]
    lines.append("\n" + "  ".join(f"{name:>9}" for name in splits) + "  clips with")
    first = next(iter(splits.values())).index
    counts = np.stack([split.index.class_counts() for split in splits.values()], axis=1)
    order, half = _order_by_frequency(counts), _PRINTED_CLASSES // 2
    rows = [
        f"{'  '.join(f'{count:9d}' for count in counts[label])}  {first.classes[label]}"
        for label in order
    ]
    if len(rows) > _PRINTED_CLASSES:
        rows[half:-half] = [f"... {len(rows) - 2 * half} classes between, see the page"]
    return lines + rows


def write_page(data_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `description.html` into the data set's folder and returns its path.

    Raises UserError where `data_dir` is no prepared data set.
    """
    data_dir = path_of(data_dir)
    splits = _open_splits(data_dir)
    about = preparation_report.read_report(data_dir) or {}
    first = next(iter(splits.values())).index
    counts = np.stack([split.index.class_counts() for split in splits.values()], axis=1)
    context = {
        "title": str(about.get("corpus") or data_dir.resolve().name),
        "tiles": _tiles(splits, first),
        "splits": [
            {"name": name, "facts": split.list_facts(), "examples": split.list_examples()}
            for name, split in splits.items()
        ],
        "names": list(splits),
        "figures": _distribution(splits),
        "classes": [(first.classes[k], counts[k].tolist()) for k in _order_by_frequency(counts)],
    }
    return run_page.render("dataset.html.jinja", data_dir / PAGE_NAME, context)


def _open_splits(data_dir: str | os.PathLike[str]) -> dict[str, _Split]:
    """Opens the splits, the largest first."""
    about = (preparation_report.read_report(data_dir) or {}).get("splits", {})
    splits = {
        name: _Split(index_lib.load_index(data_dir, name), about.get(name, {}))
        for name in index_lib.splits(data_dir)
    }
    return dict(sorted(splits.items(), key=lambda item: -len(item[1].index)))


def _order_by_frequency(counts: np.ndarray) -> list[int]:
    """Orders the classes of counts [classes, splits], the most frequent in the first one first."""
    return sorted(range(len(counts)), key=lambda k: (*(-counts[k]).tolist(), k))


def _tiles(splits: Mapping[str, _Split], first: ClipIndex) -> list[tuple[str, str, str, str]]:
    tiles = [("classes", result_tables.count(first.num_classes), "", "")]
    for name, split in splits.items():
        remark = f"{split.index.hours:,.1f} h"
        tiles.append((name, result_tables.count(len(split.index)), "clips", remark))
    return tiles


def _distribution(splits: Mapping[str, _Split]) -> list[Figure]:
    """Clips of each class over its rank: long tails are straight lines here."""
    series = []
    for colour, (name, split) in enumerate(splits.items()):
        ranked = np.sort(split.index.class_counts())[::-1]
        points = [(rank + 1, int(count)) for rank, count in enumerate(ranked) if count]
        if len(points) > 1:
            series.append(Series(name, points, colour, dashed=True))
    if not series:
        return []
    return [
        figures.lines(
            Caption("label_distribution", "Label distribution", "Each split ranked by itself."),
            series,
            x_label="class, by frequency",
            y_label="clips (logarithmic)",
            log_y=True,
        )
    ]
