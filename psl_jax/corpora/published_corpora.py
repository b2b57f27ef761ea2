"""Corpora as published: tables of file names and labels beside folders of audio.

FSD50K and FSDKaggle have a table and a folder for each split. ESC-50 and UrbanSound8K have one
table with a fold for each clip; each fold becomes a split. Train on several by joining them:
data.train_split=fold1+fold2+fold3.
"""

import abc
import csv
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from psl_jax.corpora.clip_rows import ClipRow, Loader, Problem, load_clip, mixed
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.stored_audio import FileAudio
from psl_jax.runtime.csv_files import (
    existing_folder,
    find_tables,
    hash_files,
    listing,
    plain_read_errors,
    read_rows,
)
from psl_jax.runtime.errors import UserError

_AUDIO = (".wav", ".flac", ".ogg", ".mp3")


class PublishedCorpus(Corpus):
    """A corpus of which tables name the files. Subclasses say which tables.

    Attributes:
      clip_seconds: of the longest clips.
    """

    has_events = False
    clip_seconds: ClassVar[float]

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike[str],
        splits: Sequence[str] = (),
        max_clip_seconds: float | None = None,
        include_known_bad: bool = False,
    ):
        """Finds tables and folders; raises UserError for what is missing.

        Args:
          source_dir: the corpus's folder as published, its archives unpacked.
          splits: default all.
          include_known_bad: keep the clips in `known_bad`.
        """
        self.source_dir = existing_folder(source_dir, f"the unpacked archives of {self.name}")
        self.max_clip_seconds = max_clip_seconds or self.clip_seconds
        self._keeps_bad = include_known_bad
        tables, self._splits = self._open(splits)
        self.settings = {
            "source_dir": self.source_dir,
            "splits": self._splits,
            "max_clip_seconds": self.max_clip_seconds,
            "csv_sha256": hash_files(tables),
            "classes": self.classes,
            **self._more_settings(),
        }

    @abc.abstractmethod
    def _open(self, splits: Sequence[str]) -> tuple[Iterable[pathlib.Path], tuple[str, ...]]:
        """Finds the tables and the splits; sets `classes` and `class_ids`."""

    def _more_settings(self) -> dict[str, Any]:
        return {}

    def only(self, splits: Sequence[str]) -> Self:
        return type(self)(
            source_dir=self.source_dir,
            splits=splits,
            max_clip_seconds=self.max_clip_seconds,
            include_known_bad=self._keeps_bad,
        )

    def loader(self) -> Loader:
        return functools.partial(load_clip, max_seconds=self.max_clip_seconds)

    def _choose_splits(self, wanted: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
        """The splits that are wanted, all where none are. Raises UserError for an unknown one."""
        known = tuple(known)
        if unknown := [name for name in wanted if name not in known]:
            raise UserError(
                f"{self.name} has no split {unknown[0]!r}, expected some of {', '.join(known)}"
            )
        return tuple(dict.fromkeys(wanted)) or known

    def _find_table(self, names: Iterable[str]) -> pathlib.Path:
        """The first table that is there. Raises UserError."""
        for name in names:
            if found := find_tables(self.source_dir, name):
                return found[0]
        raise UserError(
            f"{' or '.join(names)} is neither in {self.source_dir} nor in a folder in it. There "
            f"is\n{_contents(self.source_dir)}Expected {self.name} as published, its archives "
            "unpacked side by side."
        )


def _contents(folder: str) -> str:
    return listing(sorted(os.listdir(folder))[:10])


# --- A table and a folder for each split --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SplitTable:
    """Where a split is described, and where its audio lies."""

    csvs: tuple[str, ...]  # names of the table, the first that is there
    folders: tuple[str, ...]  # names of the folder of its audio, the first that is there
    labels: str  # column: one label, or several with commas between
    keep: Callable[[dict[str, str]], bool] = lambda row: True  # the rows of this split
    columns: tuple[str, ...] = ()  # others that the table must have


class FreesoundCorpus(PublishedCorpus):
    """A corpus of which every split is a table and a folder of wav files.

    Subclasses give `tables` and, where clips are known to be bad, `known_bad`.
    """

    clip_seconds = 30.0
    tables: ClassVar[Mapping[str, SplitTable]]
    known_bad: ClassVar[Mapping[str, str]] = {}  # file name without extension: why

    def _more_settings(self) -> dict[str, Any]:
        return {"include_known_bad": self._keeps_bad}

    def _open(self, splits: Sequence[str]) -> tuple[Iterable[pathlib.Path], tuple[str, ...]]:
        chosen = self._choose_splits(splits, self.tables)
        self._csvs = {split: self._find_table(self.tables[split].csvs) for split in chosen}
        self._folders = {split: self._find_folder(split) for split in chosen}
        self._left_out = {} if self._keeps_bad else self.known_bad
        self.classes, self.class_ids = self._read_classes()
        return set(self._csvs.values()), chosen

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        self.problems = []
        return {split: self._split_rows(split) for split in self._splits}

    def _split_rows(self, split: str) -> tuple[ClipRow, ...]:
        lookup = {name: index for index, name in enumerate(self.classes)}
        rows: dict[str, ClipRow] = {}
        for line, row in self._read(split):
            stem = row["fname"].strip().removesuffix(".wav")
            names = _names(row[self.tables[split].labels])
            unknown = [name for name in names if name not in lookup]
            labels = tuple(sorted({lookup[name] for name in names if name in lookup}))
            where = f"{self._csvs[split].name} line {line}"
            if stem in self._left_out:
                self._found(split, stem, "known bad", f"{self._left_out[stem]}; left out")
            elif stem in rows:
                self._found(split, stem, "duplicate row", f"{where}: the first is kept")
            elif labels:
                audio = FileAudio(os.path.join(self._folders[split], f"{stem}.wav"))
                rows[stem] = ClipRow(stem, f"{stem}.wav", audio, labels)
            else:
                self._found(split, stem, "no label", f"{where}: row skipped")
            if unknown:
                dropped = ", ".join(map(repr, unknown))
                self._found(split, stem, "unknown label", f"{where}: {dropped} not in the classes")
        return mixed(rows.values())

    def _read(self, split: str) -> list[tuple[int, dict[str, str]]]:
        """The rows of the split's table that belong to it."""
        table = self.tables[split]
        columns = ("fname", table.labels, *table.columns)
        return [item for item in read_rows(self._csvs[split], columns) if table.keep(item[1])]

    def _found(self, split: str, stem: str, kind: str, detail: str) -> None:
        self.problems.append((split, Problem(f"{stem}.wav", kind, detail)))

    def _read_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(names, ids): all labels of the tables, sorted, where there is no list of classes."""
        names = {
            name
            for split in self._csvs
            for _, row in self._read(split)
            for name in _names(row[self.tables[split].labels])
        }
        classes = tuple(sorted(names))
        return classes, classes

    def _find_folder(self, split: str) -> str:
        root, names = pathlib.Path(self.source_dir), self.tables[split].folders
        for name in names:
            found = sorted(p for p in (*root.glob(name), *root.glob(f"*/{name}")) if p.is_dir())
            if found:
                return os.fspath(found[0])
        raise UserError(
            f"no folder {' or '.join(names)} in {root}: it should hold the audio of split "
            f"{split!r}. There is\n{_contents(self.source_dir)}Unpack the archive, or choose other "
            "--splits."
        )

    def nothing_left(self, split: str, problems: list[Problem]) -> UserError:
        problems = [p for where, p in self.problems if where == split] + problems
        expected = [p.file for p in problems[:5]]
        present = sorted(os.listdir(self._folders[split])[:1000])[:5]
        return UserError(
            f"no clip of split {split!r} is usable. {self._csvs[split]} names\n{listing(expected)}"
            f"{self._folders[split]} holds\n{listing(present)}The first problems were\n"
            + listing(f"{p.file}: {p.kind} ({p.detail})" for p in problems[:5])
        )


def _names(field: str) -> list[str]:
    return [name for name in map(str.strip, field.split(",")) if name]


def read_vocabulary(path: pathlib.Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, mids) of a `vocabulary.csv`: lines `index,label,mid` without a header.

    Raises UserError for a file of another form.
    """
    with plain_read_errors(path), open(path, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    numbers = [row[0].strip() for row in rows]
    if numbers != [str(i) for i in range(len(rows))] or any(len(row) != 3 for row in rows):
        raise UserError(f"{path}: expected lines such as 0,Accordion,/m/0mkg, counting from 0")
    return tuple(row[1].strip() for row in rows), tuple(row[2].strip() for row in rows)


_DEV = ("FSD50K.dev_audio", "dev_audio")
_EVAL = ("FSD50K.eval_audio", "eval_audio")


class Fsd50k(FreesoundCorpus):
    """FSD50K (Zenodo record 4060432): 200 classes, clips of 0.3 to 30 s at 44.1 kHz.

    The official splits: train and val (of the development set), and eval.
    """

    name = "fsd50k"
    tables: ClassVar = {
        "train": SplitTable(
            ("dev.csv",), _DEV, "labels", lambda row: row["split"] == "train", ("split",)
        ),
        "val": SplitTable(
            ("dev.csv",), _DEV, "labels", lambda row: row["split"] == "val", ("split",)
        ),
        "eval": SplitTable(("eval.csv",), _EVAL, "labels"),
    }

    def _read_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = find_tables(pathlib.Path(self.source_dir), "vocabulary.csv")
        if not found:
            raise UserError(
                f"no vocabulary.csv in {self.source_dir} or a folder in it: expected that of "
                "FSD50K.ground_truth, with lines index,label,mid"
            )
        return read_vocabulary(found[0])


def _is_scored(row: dict[str, str]) -> bool:
    """The full test table also lists 7,800 clips that fill it up and have no label."""
    return row.get("usage") != "Ignored"


class FsdKaggle2018(FreesoundCorpus):
    """FSDKaggle2018 (Zenodo record 2552860): 41 classes, one label a clip, 44.1 kHz.

    The official splits, as after the competition: train (9,473 clips) and test (1,600).
    """

    name = "fsdkaggle2018"
    tables: ClassVar = {
        "train": SplitTable(
            ("train_post_competition.csv",),
            ("FSDKaggle2018.audio_train", "audio_train"),
            "label",
        ),
        "test": SplitTable(
            ("test_post_competition_scoring_clips.csv", "test_post_competition.csv"),
            ("FSDKaggle2018.audio_test", "audio_test"),
            "label",
            _is_scored,
        ),
    }


_WRONG_LABEL = "known to have a wrong label"


class FsdKaggle2019(FreesoundCorpus):
    """FSDKaggle2019 (Zenodo record 3612637): 80 classes, several labels a clip, 44.1 kHz.

    The official splits: train_curated (4,970 clips), train_noisy (19,815) and test (4,481).
    """

    name = "fsdkaggle2019"
    tables: ClassVar = {
        "train_curated": SplitTable(
            ("train_curated_post_competition.csv",),
            ("FSDKaggle2019.audio_train_curated", "audio_train_curated"),
            "labels",
        ),
        "train_noisy": SplitTable(
            ("train_noisy_post_competition.csv",),
            ("FSDKaggle2019.audio_train_noisy", "audio_train_noisy"),
            "labels",
        ),
        "test": SplitTable(
            ("test_post_competition.csv",), ("FSDKaggle2019.audio_test", "audio_test"), "labels"
        ),
    }
    known_bad: ClassVar = {
        "f76181c4": _WRONG_LABEL,
        "77b925c2": _WRONG_LABEL,
        "6a1f682a": _WRONG_LABEL,
        "c7db12aa": _WRONG_LABEL,
        "7752cc8a": _WRONG_LABEL,
        "1d44b0bd": "known to be silent",
    }

    def _read_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if found := find_tables(pathlib.Path(self.source_dir), "vocabulary.csv"):
            return read_vocabulary(found[0])
        return super()._read_classes()


# --- One table with folds -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Columns:
    """Those of a table that are read."""

    file: str
    fold: str
    number: str  # of the class
    name: str  # of the class


_PLAIN = Columns("filename", "fold", "target", "category")


class FoldCorpus(PublishedCorpus):
    """A corpus of which a table gives the fold of each file. Subclasses say which table."""

    tables: ClassVar[Mapping[str, Columns]]  # file names, the first that is there
    folds: ClassVar[int]

    def _open(self, splits: Sequence[str]) -> tuple[Iterable[pathlib.Path], tuple[str, ...]]:
        self._csv = self._find_table(self.tables)
        self._columns = self.tables[self._csv.name]
        self._rows = list(read_rows(self._csv, dataclasses.astuple(self._columns)))
        folds = sorted({self._fold(line, row) for line, row in self._rows})
        numbers = {
            self._number(line, row): row[self._columns.name].strip() for line, row in self._rows
        }
        self._labels = {number: label for label, number in enumerate(sorted(numbers))}
        self.classes = tuple(numbers[number] for number in self._labels)
        self.class_ids = tuple(str(number) for number in self._labels)
        return [self._csv], self._choose_splits(splits, (f"fold{fold}" for fold in folds))

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
