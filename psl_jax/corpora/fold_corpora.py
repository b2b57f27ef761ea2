"""ESC-50 and UrbanSound8K: one table, one label a clip, and official folds for cross-validation.

Each fold becomes a split. Train on several by joining them: data.train_split=fold1+fold2+fold3.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

from psl_jax.corpora.clip_rows import ClipRow, Loader, Problem, load_clip, mixed
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.runtime.csv_files import existing_folder, find_tables, hash_files, listing, read_rows
from psl_jax.runtime.errors import UserError

_AUDIO = (".wav", ".flac", ".ogg", ".mp3")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Those of a table that are read."""

    file: str
    fold: str
    number: str  # of the class
    name: str  # of the class


_PLAIN = Columns("filename", "fold", "target", "category")


class FoldCorpus(Corpus):
    """A corpus of which a table gives the fold of each file. Subclasses say which table."""

    has_events = False
    tables: ClassVar[Mapping[str, Columns]]  # file names, the first that is there
    folds: ClassVar[int]
    clip_seconds: ClassVar[float]

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike[str],
        splits: Sequence[str] = (),
        max_clip_seconds: float | None = None,
    ):
        """Reads the table; raises UserError for what is missing.

        Args:
          source_dir: the corpus's folder as published; audio may be of any format.
          splits: fold1, fold2, ...; default those that the table has.
        """
        self.source_dir = existing_folder(source_dir, f"the unpacked archive of {self.name}")
        self._csv, self._columns = self._find_table()
        rows = list(read_rows(self._csv, dataclasses.astuple(self._columns)))
        there = sorted({self._fold(line, row) for line, row in rows})
        known = {f"fold{n}": n for n in there}
        if unknown := [name for name in splits if name not in known]:
            names = ", ".join(known)
            raise UserError(f"{self._csv} has no {unknown[0]!r}, expected some of {names}")
        self._rows, self._splits = rows, tuple(dict.fromkeys(splits)) or tuple(known)
        self.max_clip_seconds = max_clip_seconds or self.clip_seconds
        numbers = {self._number(line, row): row[self._columns.name].strip() for line, row in rows}
        self._labels = {number: label for label, number in enumerate(sorted(numbers))}
        self.classes = tuple(numbers[number] for number in self._labels)
        self.class_ids = tuple(str(number) for number in self._labels)
        self.settings = {
            "source_dir": self.source_dir,
            "splits": self._splits,
            "max_clip_seconds": self.max_clip_seconds,
            "csv_sha256": hash_files([self._csv]),
            "classes": self.classes,
        }

    def only(self, splits: Sequence[str]) -> "FoldCorpus":
        seconds = self.max_clip_seconds
        return type(self)(source_dir=self.source_dir, splits=splits, max_clip_seconds=seconds)

    def loader(self) -> Loader:
        return functools.partial(load_clip, max_seconds=self.max_clip_seconds)

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        self.problems = []
        files = _audio_files(self.source_dir)
        found: dict[str, dict[str, ClipRow]] = {split: {} for split in self._splits}
        for line, row in self._rows:
            split = f"fold{self._fold(line, row)}"
            if split not in found:
                continue
            filename = row[self._columns.file].strip()
            stem = pathlib.PurePath(filename).stem
            # A copy may be of another format; one that is nowhere is reported as missing.
            path = files.get(stem, os.path.join(self.source_dir, filename))
            if any(stem in clips for clips in found.values()):
                detail = f"{self._csv.name} line {line}: the first is kept"
                self.problems.append((split, Problem(filename, "duplicate row", detail)))
                continue
            label = self._labels[self._number(line, row)]
            found[split][stem] = ClipRow(stem, filename, FileAudio(path), (label,))
        return {split: mixed(clips.values()) for split, clips in found.items()}

    def _find_table(self) -> tuple[pathlib.Path, Columns]:
        for name, columns in self.tables.items():
            if found := find_tables(self.source_dir, name):
                return found[0], columns
        names = " or ".join(self.tables)
        raise UserError(
            f"{names} is neither in {self.source_dir} nor in a folder in it. There is\n"
            f"{listing(sorted(os.listdir(self.source_dir))[:10])}Expected {self.name} as published."
        )

    def _fold(self, line: int, row: Mapping[str, str]) -> int:
        return self._integer(line, row, self._columns.fold, self.folds)

    def _number(self, line: int, row: Mapping[str, str]) -> int:
        return self._integer(line, row, self._columns.number)

    def _integer(
        self, line: int, row: Mapping[str, str], column: str, most: int | None = None
    ) -> int:
        text = row[column].strip()
        if not text.isdecimal() or (most is not None and not 1 <= int(text) <= most):
            wanted = "a number" if most is None else f"a number from 1 to {most}"
            raise UserError(f"{self._csv} line {line}: {column} is {text!r}, expected {wanted}")
        return int(text)


class Esc50(FoldCorpus):
    """ESC-50 (Piczak, 2015): 2,000 clips of 5 s, 50 classes, 5 folds."""

    name = "esc50"
    tables: ClassVar = {"esc50.csv": _PLAIN, "meta.csv": _PLAIN}
    folds = 5
    clip_seconds = 5.0


class UrbanSound8k(FoldCorpus):
    """UrbanSound8K (Salamon et al., 2014): 8,732 clips of up to 4 s, 10 classes, 10 folds."""

    name = "urbansound8k"
    tables: ClassVar = {
        "UrbanSound8K.csv": Columns("slice_file_name", "fold", "classID", "class"),
        "meta.csv": _PLAIN,
    }
    folds = 10
    clip_seconds = 4.0


def _audio_files(folder: str) -> dict[str, str]:
    """Path by name without extension, of all audio files in a folder and those in it."""
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension.lower() in _AUDIO:
                found.setdefault(stem, os.path.join(place, name))
    return found
