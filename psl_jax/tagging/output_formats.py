"""Tags as text: a table for the terminal, CSV, JSON, Audacity labels, and scores over time."""

import codecs
import csv
import io
import json
import os
import pathlib
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from psl_jax.runtime import disk_errors, files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of
from psl_jax.tagging.events import Event
from psl_jax.tagging.file_tagging import STDIN, FileTags, Input
from psl_jax.tagging.windowing import FRAME_SECONDS, row_times

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


class Best(NamedTuple):
    """Which tags of a whole file are told: at most `most`, with scores of at least `least`."""

    most: int = 5
    least: float = 0.0


EVENT_COLUMNS = ("file", "onset", "offset", "label", "score")


def clock(seconds: float, decimals: int = 1) -> str:
    """0:03.2, 12:00.0 or 1:02:03.4."""
    units = round(seconds * 10**decimals)
    minutes, rest = divmod(units, 60 * 10**decimals)
    width = 3 + decimals if decimals else 2
    text = f"{rest / 10**decimals:0{width}.{decimals}f}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"


def shown(name: str) -> str:
    """A file name that can be printed: undecodable bytes as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# --- One file as text, in parts ---------------------------------------------------------------


def render(tags: FileTags, style: str, best: Best, width: int = 100) -> Iterator[str]:
    """The parts of the text of `tags` in a format of ENDINGS; csv and frames with their header."""
    if style == "table":
        yield table(tags, best, width)
    elif style == "summary":
        yield summary(tags, best)
    elif style == "csv":
        yield _csv_line(EVENT_COLUMNS)
        yield event_rows(tags)
    elif style == "json":
        yield json.dumps(as_json(tags, best), indent=2, ensure_ascii=False) + "\n"
    elif style == "audacity":
        yield audacity(tags)
    elif style == "raven":
        yield raven(tags)
    else:
        yield from frame_rows(tags)


def table(tags: FileTags, best: Best, width: int = 100) -> str:
    """The best tags of a file with score, highest score over time, and when they are heard."""
    ranked = tags.ranked(tags.scores, *best)
    names = [tags.labels[i] for i in ranked]
    room = min(max(map(len, names), default=0), 40)
    when = "  when" if tags.events else ""
    lines = [
        f"{shown(tags.input.path)}  ({clock(tags.seconds)})",
        f"  score  peak   {'tag':{room}}{when}".rstrip(),
    ]
    for i, name in zip(ranked, names, strict=True):
        start = f"  {tags.scores[i]:.3f}  {tags.peaks[i]:.3f}  {_shortened(name, room):{room}}"
        heard = [event for event in tags.events if event.label == name]
        lines.append(f"{start}  {_intervals(heard, width - len(start) - 2)}".rstrip())
    others = Counter(event.label for event in tags.events if event.label not in names)
    if others:
        also = "; ".join(_shortened(name, 40) for name, _ in others.most_common(5))
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        lines.append(f"  heard at times, too: {also}{more}")
    return "\n".join(lines) + "\n\n"


def summary(tags: FileTags, best: Best) -> str:
    """A line: length, number of events, the best tags with their scores, and the file."""
    names = [
        f"{_shortened(tags.labels[i], 40)} {tags.scores[i]:.2f}"
        for i in tags.ranked(tags.scores, *best)
    ]
    count = len(tags.events)
    events = f"{count} event{'' if count == 1 else 's'}"
    found = ", ".join(names) or "-"
    return f"{clock(tags.seconds):>9}  {events:>11}  {found}  ({shown(tags.input.path)})\n"


def _intervals(events: Sequence[Event], room: int) -> str:
    """As many intervals as fit, at least one."""
    parts = [f"{clock(e.onset)}–{clock(e.offset)}" for e in events]
    for count in range(len(parts), 0, -1):
        left = len(parts) - count
        text = "  ".join(parts[:count]) + (f"  and {left} more" if left else "")
        if len(text) <= room or count == 1:
            return text
    return ""


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def event_rows(tags: FileTags) -> str:
    """CSV lines of EVENT_COLUMNS without header: the events with times in seconds."""
    name = shown(tags.input.path)
    return "".join(
        _csv_line((name, f"{on:.2f}", f"{off:.2f}", label, f"{score:.4f}"))
        for on, off, label, score in tags.events
    )


def audacity(tags: FileTags) -> str:
    """A label track as Audacity imports it: onset, offset and label, separated by tabs."""
    return "".join(
        f"{on:.6f}\t{off:.6f}\t{' '.join(label.split())} {score:.2f}\n"
        for on, off, label, score in tags.events
    )


def raven(tags: FileTags) -> str:
    """A selection table as Raven opens it; an event has the whole band that was heard."""
    lines = ["\t".join(_RAVEN_COLUMNS)]
    for number, (on, off, label, score) in enumerate(tags.events, 1):
        times, band = (f"{on:.6f}", f"{off:.6f}"), ("0", f"{tags.high_hertz:g}")
        name = " ".join(label.split())
        where = (f"{number}", "Spectrogram 1", "1", *times, *band)
        lines.append("\t".join((*where, name, f"{score:.4f}")))
    return "\n".join(lines) + "\n"


def as_json(tags: FileTags, best: Best) -> dict:
    """The file, its length, its best tags and its events; what is missing of it, if anything."""
    cut = {} if tags.cut is None else {"incomplete": tags.cut}
    return {
        "file": shown(tags.input.path),
        "seconds": round(tags.seconds, 3),
        **cut,
        "tags": [
            {
                "label": tags.labels[i],
                "score": round(float(tags.scores[i]), 4),
                "peak": round(float(tags.peaks[i]), 4),
            }
            for i in tags.ranked(tags.scores, *best)
        ],
        "events": [
            {
                "onset": round(on, 2),
                "offset": round(off, 2),
                "label": label,
                "score": round(score, 4),
            }
            for on, off, label, score in tags.events
        ],
    }


def frame_rows(tags: FileTags, with_file: bool = False, header: bool = True) -> Iterator[str]:
    """CSV of the scores over time: a line for each row, a column for each class.

    with_file: begin each line with the file's name.
    """
    first = [shown(tags.input.path)] if with_file else []
    if header:
        yield _csv_line([*(["file"] if with_file else []), "time", *tags.labels])
    assert tags.rows is not None
    number = 0
    for block in tags.rows:
        lines = []
        for row in block:
            scores = [f"{score:.4f}" for score in row.tolist()]
            lines.append(_csv_line([*first, f"{number * FRAME_SECONDS:.2f}", *scores]))
            number += 1
        yield "".join(lines)


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


# --- Where it goes ----------------------------------------------------------------------------


class Printer:
    """Prints what was found in each file to standard output, as one document."""

    def __init__(self, style: str, best: Best, width: int = 100):
        self.style, self.best, self.width = style, best, width
        self._header = True

    def __call__(self, tags: FileTags) -> None:
        for part in self._parts(tags):
            disk_errors.write_output(part)
        self._header = False

    def _parts(self, tags: FileTags) -> Iterator[str]:
        if self.style == "csv":
            if self._header:
                yield _csv_line(EVENT_COLUMNS)
            yield event_rows(tags)
        elif self.style == "json":  # a line for each file
            # In an ASCII locale other letters would become escapes that are no JSON.
            encoding = codecs.lookup(sys.stdout.encoding or "ascii").name
            yield json.dumps(as_json(tags, self.best), ensure_ascii=encoding != "utf-8") + "\n"
        elif self.style == "frames":
            yield from frame_rows(tags, with_file=True, header=self._header)
        else:
            yield from render(tags, self.style, self.best, self.width)


class OutputFolder:
    """A folder with an output for each input, and a list of which file each output is of.

    Recordings of the same name may be tagged one after the other into the same folder: the list
    tells that an output is another file's. In a bucket, where nothing can be appended, there is
    none.

    Attributes:
      paths: where the output of each input goes.
    """

    RECORD = ".psl_jax-tag"

    def __init__(self, folder: str, inputs: Sequence[Input], ending: str):
        """Raises UserError where an output is there already and is another file's."""
        self.paths = output_paths(folder, inputs, ending)
        self._record = None if is_remote(folder) else pathlib.Path(folder) / self.RECORD
        self._sources = {} if self._record is None else _read_record(self._record)
        for item, path in self.paths.items():
            source = self._sources.get(os.fspath(path), _absolute(item.path))
            if item.path != STDIN and source != _absolute(item.path) and path.exists():
                raise UserError(
                    f"{shown(os.fspath(path))} is of {shown(source)}, not of {shown(item.path)}: "
                    "give another folder, or tag a folder that holds both. "
                    f"(Were the recordings moved? Then delete {self._record}.)"
                )

    def note(self, item: Input) -> None:
        """Writes down whose output has been written."""
        path, source = self.paths[item], _absolute(item.path)
        if self._record is not None and self._sources.get(os.fspath(path)) != source:
            place = os.path.relpath(path, self._record.parent)
            with open(self._record, "a", encoding="ascii") as file:
                file.write(json.dumps([place, source]) + "\n")


class FolderWriter:
    """Writes a file for each input into a folder."""

    def __init__(self, folder: str, inputs: Sequence[Input], style: str, best: Best):
        """Raises UserError as OutputFolder does."""
        self.style, self.best = style, best
        self._folder = OutputFolder(folder, inputs, ENDINGS[style])

    def __call__(self, tags: FileTags) -> None:
        path = self._folder.paths[tags.input]
        with files.atomic_open(path, "w", newline="", encoding="utf-8") as file:
            file.writelines(render(tags, self.style, self.best))
        self._folder.note(tags.input)


def _read_record(record: pathlib.Path) -> dict[str, str]:
    """{output: the file that it is of}, both as paths; the last line about an output counts."""
    if not record.exists():
        return {}
    lines = [json.loads(line) for line in record.read_text(encoding="ascii").splitlines()]
    return {os.fspath(record.parent / place): source for place, source in lines}


class EmbeddingWriter:
    """Writes the embeddings of each input: NAME.embeddings.npz, read by np.load."""

    ENDING = ".embeddings.npz"

    def __init__(self, folder: str, inputs: Sequence[Input]):
        self.paths = output_paths(folder, inputs, self.ENDING)

    def __call__(self, tags: FileTags) -> None:
        assert tags.embedding is not None and tags.frame_embeddings is not None
        rows = tags.frame_embeddings
        arrays = {"embedding": tags.embedding, "frame_times": row_times(rows.count)}
        path = self.paths[tags.input]
        with files.atomic_open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            with archive.open("frame_embeddings.npy", "w", force_zip64=True) as member:
                shape = (rows.count, len(tags.embedding))
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for block in rows:  # hours of them are not in memory
                    member.write(block.astype("<f4").tobytes())


def output_paths(folder: str, inputs: Sequence[Input], ending: str) -> dict[Input, pathlib.Path]:
    """Where the output of each input goes, in any order of the inputs.

    a/x.wav goes to x.csv. Files that are all called x.wav keep the folders that tell them apart,
    and files that differ in their suffix alone keep it: north/x.csv and south/x.csv, x.wav.csv.
    """
    same_name: dict[str, list[Input]] = defaultdict(list)
    for item in inputs:
        same_name[item.name].append(item)
    names: dict[Input, str] = {}
    for name, items in same_name.items():
        if len(items) == 1:
            names[items[0]] = name
            continue
        places = {item: _absolute(item.path) for item in items}
        above = os.path.commonpath([os.path.dirname(place) for place in places.values()])
        names |= {item: os.path.relpath(place, above) for item, place in places.items()}
    stems = Counter(map(_stem, names.values()))
    result = {
        item: path_of(folder) / f"{_stem(name) if stems[_stem(name)] == 1 else name}{ending}"
        for item, name in names.items()
    }
    if shared := [path for path, count in Counter(result.values()).items() if count > 1]:
        raise UserError(
            f"several of the files would be written to {shared[0]}: tag them into folders of their "
            "own, each with its --out"
        )
    return result


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
