"""A folder of one's own recordings: with a table for each split, or with tables of any tool.

labels_folder.py and annotated_folder.py say what the folders look like.
"""

import collections
import dataclasses
import datetime
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.audio.readers import CUT_TOLERANCE_SECONDS
from psl_jax.corpora import split_groups
from psl_jax.corpora.annotated_folder import AnnotatedFolder, read_annotated_folder, shorten_events
from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.corpora.clip_rows import ClipRow, Loader, Problem, load_clip, mixed
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.labels_folder import CLASSES_CSV, LABEL_COLUMNS, read_folder
from psl_jax.corpora.recording_clips import (
    Coverage,
    cut_recordings,
    find_unlearnable,
    measure_all,
    path_of_row,
)
from psl_jax.corpora.split_groups import SPLITS_CSV
from psl_jax.runtime import csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of

_SPLIT_NAMES = re.compile(r"full|balanced|train|training|validation|val|dev|eval|test|fold\d+")
UNLABELLED = "unlabelled"  # the split of recordings that no table names
_OTHER_CSVS = (CLASSES_CSV, SPLITS_CSV)
_COLUMNS = ("filename", "onset", "offset", "duration", "label")


class OwnData(Corpus):
    """Recordings of a folder, cut into clips: each `{split}.csv` is a split, or they are made."""

    name = "own_data"

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike[str],
        clip_seconds: float = 10.0,
        label_separator: str = ";",
        annotated: str = "events_only",
        group_by: str = "",
        columns: str = "",
        event_label: str = "",
        unlabelled: bool = False,
    ):
        """See config.data. Reads the tables; raises UserError where they are of another form."""
        if clip_seconds <= 0 or not label_separator:
            raise UserError(
                "own_data: clip_seconds must be above 0 and label_separator not empty, got "
                f"{clip_seconds} and {label_separator!r}"
            )
        self.clip_seconds = clip_seconds
        self._keeps_background = annotated == "throughout"
        self._annotated: AnnotatedFolder | None = None
        self._whole_rows: Mapping[str, Sequence[ClipRow]] = {}
        self._coverage: Mapping[str, Mapping[str, Coverage]] = {}  # by split and file name
        if is_split_by_hand(source_dir):
            if unlabelled:
                raise UserError(
                    f"{source_dir} has tables of splits by hand, and data.unlabelled=True keeps "
                    "recordings that no table names: put those into a folder of their own"
                )
            self._read_splits(source_dir, label_separator)
        else:
            hints = Hints(_read_columns(columns), event_label, _column_of(group_by))
            self._annotated = read_annotated_folder(
                source_dir, hints, label_separator, keeps_unlabelled=unlabelled
            )
            self._make_splits(group_by)
        self.settings = {
            "source_dir": self._path,
            "clip_seconds": clip_seconds,
            "label_separator": label_separator,
            "annotated": annotated,
            "csv_sha256": self._tables_sha256,
        }
        given = {"columns": columns, "event_label": event_label, "unlabelled": unlabelled}
        self.settings |= {name: value for name, value in given.items() if value}

    def _read_splits(self, source_dir: str | os.PathLike[str], label_separator: str) -> None:
        folder = read_folder(source_dir, label_separator, keeps_background=self._keeps_background)
        self._coverage = folder.coverage
        self._path, self._tables_sha256 = folder.path, folder.csv_sha256
        self.classes, self.class_ids = folder.classes, folder.class_ids
        self.has_events, self.problems = folder.has_events, list(folder.problems)
        self._whole_rows = folder.rows
        if "balanced" not in folder.rows and "full" in folder.rows:
            self.unions = {"balanced": ["full"]}
        if "validation" not in folder.rows and (self.unions or "balanced" in folder.rows):
            self.unions = {"validation": ["full" if self.unions else "balanced"], **self.unions}

    def _make_splits(self, group_by: str) -> None:
        folder = self._annotated
        assert folder is not None
        self._path = folder.path if is_remote(folder.path) else os.path.realpath(folder.path)
        self.classes, self.class_ids = folder.classes, folder.class_ids
        self.has_events = folder.has_events
        self.problems = [(None, problem) for problem in folder.problems]
        recordings = [name for name in folder.rows if name not in folder.unlabelled]
        path = path_of(self._path) / SPLITS_CSV
        if path.exists():
            print(f"{path} gives the splits. Delete it to have them made anew")
            self._splits = split_groups.read_splits(path, recordings)
        else:
            group_of = split_groups.groups_of(
                recordings, group_by, folder.groups, folder.folders_are_classes
            )
            counts: dict[str, collections.Counter[int]] = collections.defaultdict(
                collections.Counter
            )
            for name in recordings:
                counts[group_of[name]].update(self._clips_per_class(folder.rows[name]))
            splits = split_groups.assign_splits(counts)
            self._splits = {name: splits[group] for name, group in group_of.items()}
            if set(splits.values()) == {"full"}:
                detail = f"{len(splits)} groups are too few for {', '.join(split_groups.SHARES)}: "
                detail += "all is in full. Give another data.group_by, or write splits.csv "
                detail += "(filename,split)"
                self.problems.append((None, Problem(self._path, "no splits", detail)))
            elif recordings and split_groups.write_splits(path, self._splits):
                print(f"{path} has the split of each recording: edit it to have others")
        if folder.unlabelled:
            self._place_unlabelled(folder, group_by)
        if not recordings:
            self.unions = {split: [UNLABELLED] for split in ("balanced", *split_groups.SHARES)}
        text = "".join(f"{name}\t{split}\n" for name, split in sorted(self._splits.items()))
        digest = hashlib.sha256(text.encode(errors="surrogateescape"))
        digest.update(folder.tables_sha256.encode())
        self._tables_sha256 = digest.hexdigest()
        if "balanced" not in self._splits.values() and "full" in self._splits.values():
            self.unions = {"balanced": ["full"]}

    def _place_unlabelled(self, folder: AnnotatedFolder, group_by: str) -> None:
        """Puts recordings without labels into a split, but those of a group that is held out."""
        group_by = "recording" if _column_of(group_by) else group_by
        group_of = split_groups.groups_of(list(folder.rows), group_by, {}, False)
        held_out = {group_of[name] for name, split in self._splits.items() if split != "full"}
        for name in sorted(folder.unlabelled):
            if group_of[name] in held_out:
                del folder.rows[name]
                detail = "not labelled, and in a group of which others are held out; left out"
                self.problems.append((None, Problem(name, "held out", detail)))
            else:
                self._splits[name] = UNLABELLED

    def _clips_per_class(self, row: ClipRow) -> collections.Counter[int]:
        """Clips of each class in a recording, as far as they are known without opening it."""
        if row.events is None:
            return collections.Counter(row.labels)
        clips = {
            (label, number)
            for onset, offset, label in row.events
            for number in range(
                int(onset // self.clip_seconds), int(offset // self.clip_seconds) + 1
            )
        }
        return collections.Counter(label for label, _ in clips)

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        folder = self._annotated
        whole = self._whole_rows
        if folder is not None:
            whole = {"": tuple(folder.rows.values())}
        recordings = {row.filename: path_of_row(row) for rows in whole.values() for row in rows}
        lengths = measure_all(list(recordings.values()))
        seconds = dict(zip(recordings, lengths, strict=True))
        if folder is not None:
            problems = shorten_events(folder, seconds, tolerance=CUT_TOLERANCE_SECONDS)
            self.problems += [(self._splits[problem.file], problem) for problem in problems]
            by_split: dict[str, list[ClipRow]] = collections.defaultdict(list)
            for name, row in folder.rows.items():
                by_split[self._splits[name]].append(row)
            whole = {split: mixed(by_split[split]) for split in sorted(by_split, key=_split_rank)}
            self._coverage = {
                split: {
                    row.filename: folder.coverage(row.filename, self._keeps_background)
                    for row in rows
                }
                for split, rows in whole.items()
            }
        result, problems_of_cutting = self._cut(whole, seconds)
        clips = [row for rows in result.values() for row in rows]
        if absent := find_unlearnable(clips, len(self.classes)):
            self._count_as_absent(absent)
            result, problems_of_cutting = self._cut(whole, seconds)
        self.problems += problems_of_cutting
        if folder is not None and self.classes:
            counts = {
                split: collections.Counter(label for row in rows for label in row.labels)
                for split, rows in result.items()
            }
            print("\n".join(split_groups.summary_lines(counts, self.classes)))
        return result

    def _cut(
        self, whole: Mapping[str, Sequence[ClipRow]], seconds: Mapping[str, float | None]
    ) -> tuple[dict[str, list[ClipRow]], list[tuple[str | None, Problem]]]:
        """The clips of each split, and (split, problem)."""
        result: dict[str, list[ClipRow]] = {}
        all_problems: list[tuple[str | None, Problem]] = []
        for split, rows in whole.items():
            result[split], problems = cut_recordings(
                rows, seconds, self.clip_seconds, self._coverage[split], len(self.classes)
            )
            all_problems += [(split, problem) for problem in problems]
        return result, all_problems

    def _count_as_absent(self, classes: frozenset[int]) -> None:
        """Lets clips without an event of these classes lack them: without any, nothing is learned.

        Only where nobody said which classes are annotated.
        """
        coverages = [c for covered in self._coverage.values() for c in covered.values()]
        unknown = [classes - c.classes for c in coverages if not c.is_told]
        names = [self.classes[label] for label in sorted(frozenset().union(*unknown))]
        if not names:
            return
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        detail = f"{shown}: fewer clips are known to lack the class than to have it, so clips "
        detail += "without an event of it count as clips that lack it. A column annotated_classes, "
        detail += "or data.annotated=throughout, tells what is absent"
        print(f"note: {detail}")
        self.problems.append((None, Problem(self._path, "counted as absent", detail)))
        self._coverage = {
            split: {
                name: c if c.is_told else dataclasses.replace(c, classes=c.classes | classes)
                for name, c in covered.items()
            }
            for split, covered in self._coverage.items()
        }

    def loader(self) -> Loader:
        return functools.partial(load_clip, max_seconds=self.clip_seconds)

    def notes(self, report: Mapping[str, Any]) -> list[str]:
        made = datetime.datetime.fromisoformat(report["made"]).timestamp() + 1
        paths = {os.path.join(self._path, p["file"]) for p in report["problems"]}
        found = [path for path in map(path_of, paths) if path.exists()]
        if newer := [path for path in found if path.stat().st_mtime > made]:
            return [
                f"note: {len(newer)} of the files with problems have changed since, such as "
                f"{newer[0]}. To prepare the data again, delete its folder"
            ]
        return []

    def nothing_left(self, split: str, problems: list[Problem]) -> UserError:
        if self._annotated is not None:
            return super().nothing_left(split, [p for _, p in self.problems] + problems)
        root = path_of(self._path)
        with (root / f"{split}.csv").open(encoding="utf-8-sig") as file:
            first_rows = "".join(f"  {line.rstrip()}\n" for line in itertools.islice(file, 4))
        present = itertools.islice((p for p in root.rglob("*") if p.suffix != ".csv"), 1000)
        files = [p.relative_to(root).as_posix() for p in present if p.is_file()]
        first_files = "".join(f"  {name}\n" for name in sorted(files)[:4]) or "  (none)\n"
        found = [p for s, p in self.problems if s == split] + problems
        first_problems = "".join(f"  {p.file}: {p.kind} ({p.detail})\n" for p in found[:4])
        first_problems = first_problems or "  (the CSV has no rows)\n"
        return UserError(
            f"no clip of {root / f'{split}.csv'} is usable.\n"
            f"The first rows are\n{first_rows}and the first files in {root}\n{first_files}"
            f"The first problems were\n{first_problems}"
            "Expected: file names relative to the folder of the CSV, with their extension, and at "
            "least one known label each."
        )


def is_split_by_hand(folder: str | os.PathLike[str]) -> bool:
    """Whether the CSVs of a folder are its splits: by their names, or as there are several."""
    root = path_of(folder)
    tables = sorted(path for path in root.glob("*.csv") if path.name not in _OTHER_CSVS)
    if any(_SPLIT_NAMES.fullmatch(path.stem) for path in tables):
        return True
    return sum(_has_labels(path) for path in tables) > 1


def _has_labels(path: os.PathLike[str]) -> bool:
    try:
        return set(LABEL_COLUMNS) <= set(csv_files.read_header(path, LABEL_COLUMNS))
    except UserError:
        return False


def _read_columns(text: str) -> dict[str, str]:
    """The columns of "filename=Datei, label=Klasse". Raises UserError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    columns = {name.strip(): value.strip() for name, _, value in pairs}
    if wrong := [name for name, value in columns.items() if name not in _COLUMNS or not value]:
        raise UserError(
            f"data.columns is {text!r}: {wrong[0]!r} is wrong. Expected such as "
            f"'filename=Datei,label=Klasse', with some of {', '.join(_COLUMNS)}"
        )
    return columns


def _split_rank(split: str) -> tuple[int, str]:
    """Orders splits: those that are made first, as they are made."""
    known = list(split_groups.SHARES)
    return (known.index(split) if split in known else len(known)), split


def _column_of(group_by: str) -> str:
    """The column that `data.group_by` names; "" where it names none."""
    return "" if "(" in group_by or group_by in ("recording", "folder") else group_by
