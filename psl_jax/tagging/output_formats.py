"""Writes tags as text: a table for the terminal, CSV, JSON, Audacity labels, scores over time."""

import csv
import io
import json
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from psl_jax.runtime import disk_errors, files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute, is_remote, make_printable, path_of
from psl_jax.tagging.events import Event, rank_classes
from psl_jax.tagging.file_tagging import STDIN, FileTags, Input

# Format -> ending of its files, with --out.
ENDINGS = {
    "table": ".tags.txt",
    "summary": ".summary.txt",
    "csv": ".csv",
    "json": ".json",
    "audacity": ".txt",
    "raven": ".Table.1.selections.txt",
    "frames": ".frames.csv",
}

_RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"),
    *("Low Freq (Hz)", "High Freq (Hz)", "Annotation", "Score"),
)


_ROWS_AT_ONCE = 4096  # of the scores over time


EVENT_COLUMNS = ("file", "onset", "offset", "label", "score")


def format_clock(seconds: float, decimals: int = 1) -> str:
    """Formats a time as 0:03.2, 12:00.0 or 1:02:03.4."""
    units = round(seconds * 10**decimals)
    minutes, units_left = divmod(units, 60 * 10**decimals)
    width = 3 + decimals if decimals else 2
    text = f"{units_left / 10**decimals:0{width}.{decimals}f}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


# --- One file as text, in parts ---------------------------------------------------------------


def render(tags: FileTags, style: str, *, max_tags: int, width: int = 100) -> Iterator[str]:
    """Yields the text of `tags` in a format of ENDINGS; csv and frames with their header."""
    if style == "table":
        yield format_table(tags, max_tags, width)
    elif style == "summary":
        yield format_summary(tags, max_tags)
    elif style == "csv":
        yield _format_csv_line(EVENT_COLUMNS)
        yield format_event_rows(tags)
    elif style == "json":
        yield json.dumps(to_json(tags, max_tags), indent=2, ensure_ascii=False) + "\n"
    elif style == "audacity":
        yield format_audacity(tags)
    elif style == "raven":
        yield format_raven(tags)
    else:
        yield from format_frame_rows(tags)


def format_table(tags: FileTags, max_tags: int, width: int = 100) -> str:
    """Formats the best tags of a file with score, highest score over time, and their times."""
    classes = rank_classes(tags.scores, max_tags)
    names = [tags.labels[i] for i in classes]
    name_width = min(max(map(len, names), default=0), 40)
    lines = [
        f"{make_printable(tags.input.path)}  ({format_clock(tags.seconds)})",
        f"  score  peak   {'tag':{name_width}}{'  when' if tags.found_events else ''}".rstrip(),
    ]
    for i, name in zip(classes, names, strict=True):
        short_name = shorten(name, name_width)
        beginning = f"  {tags.scores[i]:.3f}  {tags.peaks[i]:.3f}  {short_name:{name_width}}"
        events = [event for event in tags.found_events if event.label == name]
        lines.append(
            f"{beginning}  {_format_intervals(events, width - len(beginning) - 2)}".rstrip()
        )
    others = Counter(event.label for event in tags.found_events if event.label not in names)
    if others:
        other_names = "; ".join(shorten(name, 40) for name, _ in others.most_common(5))
        and_more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        lines.append(f"  also, at times: {other_names}{and_more}")
    if not tags.found_events:
        highest = tags.peaks.max()
        lines.append(f"  no event reaches its threshold; try --threshold below {highest:.3f}")
    return "\n".join(lines) + "\n\n"


def format_summary(tags: FileTags, max_tags: int) -> str:
    """Formats a line: length, number of events, the best tags with their scores, and the file."""
    names = [
        f"{shorten(tags.labels[i], 40)} {tags.scores[i]:.2f}"
        for i in rank_classes(tags.scores, max_tags)
    ]
    num_events = len(tags.found_events)
    events = f"{num_events} event{'' if num_events == 1 else 's'}"
    best_tags = ", ".join(names) or "-"
    name = make_printable(tags.input.path)
    return f"{format_clock(tags.seconds):>9}  {events:>11}  {best_tags}  ({name})\n"


def _format_intervals(events: Sequence[Event], max_width: int) -> str:
    """Joins as many intervals as fit, at least one."""
    intervals = [f"{format_clock(event.onset)}–{format_clock(event.offset)}" for event in events]
    for num_shown in range(len(intervals), 0, -1):
        num_hidden = len(intervals) - num_shown
        text = "  ".join(intervals[:num_shown]) + (f"  and {num_hidden} more" if num_hidden else "")
        if len(text) <= max_width or num_shown == 1:
            return text
    return ""


def shorten(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def format_event_rows(tags: FileTags) -> str:
    """Formats events as CSV lines of EVENT_COLUMNS without header, with times in seconds."""
    name = make_printable(tags.input.path)
    return "".join(
        _format_csv_line((name, f"{onset:.2f}", f"{offset:.2f}", label, f"{score:.4f}"))
        for onset, offset, label, score in tags.found_events
    )


def format_audacity(tags: FileTags) -> str:
    """Formats a label track for Audacity: onset, offset and label, separated by tabs."""
    return "".join(
        f"{onset:.6f}\t{offset:.6f}\t{' '.join(label.split())} {score:.2f}\n"
        for onset, offset, label, score in tags.found_events
    )


def format_raven(tags: FileTags) -> str:
    """Formats a selection table for Raven; an event spans all frequencies of the recording."""
    lines = ["\t".join(_RAVEN_COLUMNS)]
    for number, (onset, offset, label, score) in enumerate(tags.found_events, 1):
        times, band = (f"{onset:.6f}", f"{offset:.6f}"), ("0", f"{tags.high_hertz:g}")
        name = " ".join(label.split())
        place = (f"{number}", "Spectrogram 1", "1", *times, *band)
        lines.append("\t".join((*place, name, f"{score:.4f}")))
    return "\n".join(lines) + "\n"


def to_json(tags: FileTags, max_tags: int) -> dict[str, Any]:
    """Returns the file, its length, its best tags and events."""
    return {
        "file": make_printable(tags.input.path),
        "seconds": round(tags.seconds, 3),
        "tags": [
            {
                "label": tags.labels[i],
                "score": round(float(tags.scores[i]), 4),
                "peak": round(float(tags.peaks[i]), 4),
            }
            for i in rank_classes(tags.scores, max_tags)
        ],
        "events": [
            {
                "onset": round(onset, 2),
                "offset": round(offset, 2),
                "label": label,
                "score": round(score, 4),
            }
            for onset, offset, label, score in tags.found_events
        ],
    }


def format_frame_rows(tags: FileTags) -> Iterator[str]:
    """Formats the scores over time as CSV: a line for each row, a column for each class."""
    yield _format_csv_line(["time", *tags.labels])
    for start in range(0, len(tags.frame_times), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield "".join(
            _format_csv_line([f"{time:.2f}", *(f"{score:.4f}" for score in scores)])
            for time, scores in zip(
                tags.frame_times[rows], tags.frame_scores[rows].tolist(), strict=True
            )
        )


def _format_csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


# --- Writing to standard output and to folders ------------------------------------------------


class Printer:
    """Prints the tags of each file to standard output, as one document."""

    def __init__(self, style: str, max_tags: int, width: int = 100):
        self.style, self.max_tags, self.width = style, max_tags, width
        self._is_first = True

    def __call__(self, tags: FileTags) -> None:
        texts: Iterable[str]
        if self.style == "json":  # a line for each file, which any locale can print
            texts = [json.dumps(to_json(tags, self.max_tags)) + "\n"]
        elif self.style == "csv" and not self._is_first:
            texts = [format_event_rows(tags)]
        else:
            texts = render(tags, self.style, max_tags=self.max_tags, width=self.width)
        for text in texts:
            disk_errors.write_output(text)
        self._is_first = False


class OutputFolder:
    """A folder with an output for each input, and a list that names the input of each output.

    Somebody may tag recordings of the same name one after the other into the same folder: then the
    list shows that an output belongs to another file. A bucket has no list, as nothing can be
    appended there.
    """

    RECORD = ".psl_jax-tag"

    def __init__(self, folder: str, inputs: Sequence[Input], ending: str):
        """Raises UserError where an output exists already and belongs to another file."""
        self.paths = choose_output_paths(folder, inputs, ending)  # of each input
        self._record = None if is_remote(folder) else pathlib.Path(folder) / self.RECORD
        self._sources = _read_record(self._record)
        for item, path in self.paths.items():
            source = self._sources.get(os.fspath(path), os.fspath(absolute(item.path)))
            if item.path != STDIN and source != os.fspath(absolute(item.path)) and path.exists():
                raise UserError(
                    f"{make_printable(os.fspath(path))} is of {make_printable(source)}, not of "
                    f"{make_printable(item.path)}: give another folder, or tag a folder that holds "
                    f"both. (Were the recordings moved? Then delete {self._record}.)"
                )

    def write(self, tags: FileTags, style: str, max_tags: int) -> None:
        """Writes the output of an input in a format of ENDINGS."""
        self.note(tags.input)  # first: killed in between, no output is taken for another file's
        with files.atomic_open(self.paths[tags.input], newline="", encoding="utf-8") as file:
            file.writelines(render(tags, style, max_tags=max_tags))

    def note(self, item: Input) -> None:
        """Adds an input, whose output is about to be written, to the list."""
        path, source = self.paths[item], os.fspath(absolute(item.path))
        if self._record is not None and self._sources.get(os.fspath(path)) != source:
            relative_path = os.path.relpath(path, self._record.parent)
            with open(self._record, "a", encoding="ascii") as file:
                file.write(json.dumps([relative_path, source]) + "\n")


def _read_record(record: pathlib.Path | None) -> dict[str, str]:
    """Reads {output: input}, both as paths; of several lines on an output the last one counts."""
    if record is None or not record.exists():
        return {}
    text = record.read_text(encoding="ascii")
    if not text.endswith("\n"):  # a full disk has cut off its last line
        text = text[: text.rfind("\n") + 1]
        record.write_text(text, encoding="ascii")
    lines = [json.loads(line) for line in text.splitlines()]
    return {os.fspath(record.parent / place): source for place, source in lines}


def write_embeddings(path: pathlib.Path, tags: FileTags) -> None:
    """Writes the embeddings of a file, which np.load reads."""
    assert tags.embedding is not None and tags.frame_embeddings is not None
    with files.atomic_open(path, "wb") as file:
        np.savez(
            file,
            embedding=tags.embedding,
            frame_times=tags.frame_times,
            frame_embeddings=tags.frame_embeddings,
        )


def choose_output_paths(
    folder: str, inputs: Sequence[Input], ending: str
) -> dict[Input, pathlib.Path]:
    """Chooses the output path of each input, the same for any order of the inputs.

    a/x.wav goes to x.csv. Several files called x.wav keep the folders in which they differ, and
    files that differ in their suffix alone keep it: north/x.csv and south/x.csv, x.wav.csv.
    """
    same_name: dict[str, list[Input]] = defaultdict(list)
    for item in inputs:
        same_name[item.name].append(item)
    names: dict[Input, str] = {}
    for name, items in same_name.items():
        if len(items) == 1:
            names[items[0]] = name
            continue
        absolute_paths = [os.fspath(absolute(item.path)) for item in items]
        common_folder = os.path.commonpath(map(os.path.dirname, absolute_paths))
        relative_paths = [os.path.relpath(path, common_folder) for path in absolute_paths]
        names |= zip(items, relative_paths, strict=True)
    stems = {item: os.path.splitext(name)[0] for item, name in names.items()}
    counts = Counter(stems.values())
    paths = {
        item: path_of(folder) / f"{stem if counts[stem] == 1 else names[item]}{ending}"
        for item, stem in stems.items()
    }
    if shared_paths := [path for path, count in Counter(paths.values()).items() if count > 1]:
        raise UserError(
            f"several of the files would be written to {shared_paths[0]}: tag them into folders of "
            "their own, each with its --out"
        )
    return paths
