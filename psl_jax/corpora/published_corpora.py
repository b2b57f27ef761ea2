"""Corpora as published: tables of file names and labels beside folders of audio.

FSD50K and FSDKaggle have a table and a folder for each split. ESC-50 and UrbanSound8K have one
table with a fold for each clip; each fold becomes a split. Train on several by joining them:
data.train_split=fold1+fold2+fold3.
"""

import abc
import csv
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from psl_jax.corpora.audio_folders import walk_files
from psl_jax.corpora.clip_rows import ClipRow, Problem, mixed
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


class ListedFile(NamedTuple):
    """A row of a table."""

    where: str  # the table, and the line in it
    id: str  # of the clip
    filename: str  # as the table has it
    path: str
    names: list[str]  # of its classes


class PublishedCorpus(Corpus):
    """A corpus of which tables name the files."""

    # Clips that are left out, and why; None where nobody looked for some.
    known_bad: ClassVar[Mapping[str, str] | None] = None

    def __init__(self, *, source_dir: str | os.PathLike[str], splits: Sequence[str] = ()):
        """Finds tables and folders of the unpacked archives. Raises UserError."""
        self.source_dir = existing_folder(source_dir, f"the unpacked archives of {self.name}")
        self.arguments = {"source_dir": self.source_dir}
        possible = self._find_splits()
        if unknown := [name for name in splits if name not in possible]:
            raise UserError(
                f"{self.name} has no split {unknown[0]!r}, expected some of {', '.join(possible)}"
            )
        self._splits = tuple(dict.fromkeys(splits)) or tuple(possible)
        tables = self._open_splits()
        self.settings: dict[str, Any] = {
            "source_dir": self.source_dir,
            "splits": self._splits,
            "max_clip_seconds": self.max_clip_seconds,
            "csv_sha256": hash_files(tables),
            "classes": self.classes,
        }
        if self.known_bad is not None:
            self.settings |= {"include_known_bad": False}  # as earlier versions know it

    @abc.abstractmethod
    def _find_splits(self) -> Sequence[str]:
        """The splits that there are."""

    @abc.abstractmethod
    def _open_splits(self) -> Iterable[pathlib.Path]:
        """The tables of the wanted splits; sets `classes` and `class_ids`."""

    @abc.abstractmethod
    def _list_files(self, split: str) -> Iterator[ListedFile]:
        """The rows of a split."""

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        self.problems, known_bad = [], self.known_bad or {}
        numbers = {name: number for number, name in enumerate(self.classes)}
        rows: dict[str, dict[str, ClipRow]] = {split: {} for split in self._splits}
        for split, clips in rows.items():
            for listed in self._list_files(split):
                labels = tuple(sorted({numbers[name] for name in listed.names if name in numbers}))
                unknown = [repr(name) for name in listed.names if name not in numbers]
                problems = {}
                if listed.id in known_bad:
                    problems["known bad"] = f"{known_bad[listed.id]}; left out"
                elif any(listed.id in others for others in rows.values()):
                    problems["duplicate row"] = f"{listed.where}: the first is kept"
                elif not labels:
                    problems["no label"] = f"{listed.where}: row skipped"
                else:
                    audio = FileAudio(listed.path)
                    clips[listed.id] = ClipRow(listed.id, listed.filename, audio, labels)
                if unknown:
                    detail = f"{listed.where}: {', '.join(unknown)} not in the classes"
                    problems["unknown label"] = detail
                self.problems += [
                    (split, Problem(listed.filename, *problem)) for problem in problems.items()
                ]
        return {split: mixed(clips.values()) for split, clips in rows.items()}

    def _find_table(self, names: Iterable[str]) -> pathlib.Path:
        """The first table that is there. Raises UserError."""
        for name in names:
            if paths := find_tables(self.source_dir, name):
                return paths[0]
        raise self._make_error(
            f"{' or '.join(names)} is neither in {self.source_dir} nor in a folder in it"
        )

    def _make_error(self, what: str) -> UserError:
        return UserError(
            f"{what}. There is\n{listing(sorted(os.listdir(self.source_dir))[:10])}Expected "
            f"{self.name} as published, its archives unpacked side by side."
        )


# --- A table and a folder for each split --------------------------------------------------------


class SplitTable(NamedTuple):
    """Where a split is described, and where its audio lies."""

    csvs: tuple[str, ...]  # names of the table, the first that is there
    folder: str  # of its audio, as in FSD50K.dev_audio or dev_audio
    labels: str = "labels"  # column: one label, or several with commas between
    columns: tuple[str, ...] = ()  # others that the table must have


class FreesoundCorpus(PublishedCorpus):
    """A corpus of which every split is a table and a folder of wav files."""

    max_clip_seconds = 30.0
    known_bad: ClassVar = {}
    title: ClassVar[str]  # with which the names of folders begin
    tables: ClassVar[Mapping[str, SplitTable]]
    needs_vocabulary: ClassVar[bool] = False  # else classes are those of the tables without one

    def _find_splits(self) -> Sequence[str]:
        return tuple(self.tables)

    def _open_splits(self) -> Iterable[pathlib.Path]:
        self._csvs = {split: self._find_table(self.tables[split].csvs) for split in self._splits}
        self._folders = {split: self._find_folder(split) for split in self._splits}
        if vocabulary := find_tables(self.source_dir, "vocabulary.csv"):
            self.classes, self.class_ids = read_vocabulary(vocabulary[0])
        elif self.needs_vocabulary:
            raise UserError(
                f"no vocabulary.csv in {self.source_dir} or a folder in it: expected that of "
                "FSD50K.ground_truth, with lines index,label,mid"
            )
        else:
            files = (listed for split in self._splits for listed in self._list_files(split))
            self.classes = tuple(sorted({name for listed in files for name in listed.names}))
            self.class_ids = self.classes
        return set(self._csvs.values())

    def _list_files(self, split: str) -> Iterator[ListedFile]:
        table = self.tables[split]
        csv_path = self._csvs[split]
        for line, row in read_rows(csv_path, ("fname", table.labels, *table.columns)):
            # A table may be of several splits, and list clips that only fill it up.
            if row.get("split", split) == split and row.get("usage") != "Ignored":
                stem = row["fname"].strip().removesuffix(".wav")
                path = os.path.join(self._folders[split], f"{stem}.wav")
                names = [name for name in map(str.strip, row[table.labels].split(",")) if name]
                yield ListedFile(f"{csv_path.name} line {line}", stem, f"{stem}.wav", path, names)

    def _find_folder(self, split: str) -> str:
        root, folder = pathlib.Path(self.source_dir), self.tables[split].folder
        names = (f"{self.title}.{folder}", folder)
        for name in names:
            for path in sorted((*root.glob(name), *root.glob(f"*/{name}"))):
                if path.is_dir():
                    return os.fspath(path)
        raise self._make_error(
            f"no folder {' or '.join(names)} in {root}: it should hold the audio of split "
            f"{split!r} (or choose other --splits)"
        )


def read_vocabulary(path: pathlib.Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names, mids) of a `vocabulary.csv`, lines `index,label,mid`. Raises UserError."""
    with plain_read_errors(path), open(path, encoding="utf-8-sig", newline="") as file:
        rows = [[field.strip() for field in row] for row in csv.reader(file) if row]
    if [row[0] for row in rows] != list(map(str, range(len(rows)))) or any(
        len(row) != 3 for row in rows
    ):
        raise UserError(f"{path}: expected lines such as 0,Accordion,/m/0mkg, counting from 0")
    return tuple(row[1] for row in rows), tuple(row[2] for row in rows)


class Fsd50k(FreesoundCorpus):
    """FSD50K (Zenodo record 4060432): 200 classes, clips of 0.3 to 30 s at 44.1 kHz.

    The official splits: train and val (of the development set), and eval.
    """

    name, title = "fsd50k", "FSD50K"
    needs_vocabulary = True
    tables: ClassVar = {
        "train": SplitTable(("dev.csv",), "dev_audio", columns=("split",)),
        "val": SplitTable(("dev.csv",), "dev_audio", columns=("split",)),
        "eval": SplitTable(("eval.csv",), "eval_audio"),
    }


class FsdKaggle2018(FreesoundCorpus):
    """FSDKaggle2018 (Zenodo record 2552860): 41 classes, one label a clip, 44.1 kHz.

    The official splits, as after the competition: train (9,473 clips) and test (1,600). The full
    test table also lists 7,800 clips that fill it up and have no label.
    """

    name, title = "fsdkaggle2018", "FSDKaggle2018"
    tables: ClassVar = {
        "train": SplitTable(("train_post_competition.csv",), "audio_train", "label"),
        "test": SplitTable(
            ("test_post_competition_scoring_clips.csv", "test_post_competition.csv"),
            "audio_test",
            "label",
        ),
    }


class FsdKaggle2019(FreesoundCorpus):
    """FSDKaggle2019 (Zenodo record 3612637): 80 classes, several labels a clip, 44.1 kHz.

    The official splits: train_curated (4,970 clips), train_noisy (19,815) and test (4,481).
    """

    name, title = "fsdkaggle2019", "FSDKaggle2019"
    tables: ClassVar = {
        split: SplitTable((f"{split}_post_competition.csv",), f"audio_{split}")
        for split in ("train_curated", "train_noisy", "test")
    }
    known_bad: ClassVar = {"1d44b0bd": "known to be silent"} | dict.fromkeys(
        ("f76181c4", "77b925c2", "6a1f682a", "c7db12aa", "7752cc8a"),
        "known to have a wrong label",
    )


# --- One table with folds -----------------------------------------------------------------------


class Columns(NamedTuple):
    """Those of a table that are read."""

    file: str = "filename"
    fold: str = "fold"
    number: str = "target"  # of the class
    name: str = "category"  # of the class


class FoldCorpus(PublishedCorpus):
    """A corpus of which a table gives the fold of each file. Subclasses say which table."""

    tables: ClassVar[Mapping[str, Columns]]  # file names, the first that is there
    folds: ClassVar[int]

    def _find_splits(self) -> Sequence[str]:
        self._csv = self._find_table(self.tables)
        columns = self.tables[self._csv.name]
        # Line, fold, file and class of each row.
        self._rows: list[tuple[int, str, str, str]] = []
        names: dict[int, str] = {}
        folds = set()
        for line, row in read_rows(self._csv, columns):
            fold = self._read_number(line, row, columns.fold, self.folds)
            number = self._read_number(line, row, columns.number)
            name = names.setdefault(number, row[columns.name].strip())
            folds.add(fold)
            self._rows.append((line, f"fold{fold}", row[columns.file].strip(), name))
        self.classes = tuple(names[number] for number in sorted(names))
        self.class_ids = tuple(map(str, sorted(names)))
        return [f"fold{fold}" for fold in sorted(folds)]

    def _open_splits(self) -> Iterable[pathlib.Path]:
        return [self._csv]

    def _list_files(self, split: str) -> Iterator[ListedFile]:
        for line, fold, filename, name in self._rows:
            if fold == split:
                stem = pathlib.PurePath(filename).stem
                # A copy may be of another format; one that is nowhere is reported as missing.
                path = self._paths.get(stem, os.path.join(self.source_dir, filename))
                yield ListedFile(f"{self._csv.name} line {line}", stem, filename, path, [name])

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """Where the audio of each name without extension lies."""
        paths: dict[str, str] = {}
        for path in walk_files(self.source_dir):
            stem, suffix = os.path.splitext(os.path.basename(path))
            if suffix.lower() in _AUDIO:
                paths.setdefault(stem, path)
        return paths

    def _read_number(
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
    tables: ClassVar = {"esc50.csv": Columns(), "meta.csv": Columns()}
    folds = 5
    max_clip_seconds = 5.0


class UrbanSound8k(FoldCorpus):
    """UrbanSound8K (Salamon et al., 2014): 8,732 clips of up to 4 s, 10 classes, 10 folds."""

    name = "urbansound8k"
    tables: ClassVar = {
        "UrbanSound8K.csv": Columns("slice_file_name", "fold", "classID", "class"),
        "meta.csv": Columns(),
    }
    folds = 10
    max_clip_seconds = 4.0


CORPORA: tuple[type[PublishedCorpus], ...] = (
    Esc50, UrbanSound8k, Fsd50k, FsdKaggle2018, FsdKaggle2019
)  # fmt: skip
