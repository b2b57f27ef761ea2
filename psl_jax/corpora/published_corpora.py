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
from psl_jax.corpora.corpus import ClipRow, Corpus, Problem, mixed
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
    filename: str
    names: list[str]  # of its classes


class PublishedCorpus(Corpus):
    """A corpus of which tables name the files."""

    # Clips that are left out, and why; None where nobody looked for some.
    known_bad: ClassVar[Mapping[str, str] | None] = None

    def __init__(self, *, source_dir: str | os.PathLike[str], splits: Sequence[str] = ()):
        """Finds tables and folders of the unpacked archives. Raises UserError."""
        self.source_dir = existing_folder(source_dir, f"the unpacked archives of {self.name}")
        self.arguments = {"source_dir": self.source_dir}
        self._tables: Iterable[pathlib.Path] = ()
        self._files = self._read_tables(splits)
        self.settings: dict[str, Any] = {
            "source_dir": self.source_dir,
            "splits": tuple(self._files),
            "max_clip_seconds": self.max_clip_seconds,
            "csv_sha256": hash_files(self._tables),
            "classes": self.classes,
        }
        if self.known_bad is not None:
            self.settings |= {"include_known_bad": False}  # as earlier versions know it

    @abc.abstractmethod
    def _read_tables(self, splits: Sequence[str]) -> Mapping[str, Sequence[ListedFile]]:
        """The rows of each of `splits`, or of all; sets `_tables`, `classes` and `class_ids`."""

    @abc.abstractmethod
    def _find_path(self, split: str, filename: str) -> str:
        """Where a file lies, or should lie: one that is not there is reported as missing."""

    def _choose_splits(self, splits: Sequence[str], possible: Iterable[str]) -> tuple[str, ...]:
        if unknown := [name for name in splits if name not in possible]:
            raise UserError(
                f"{self.name} has no split {unknown[0]!r}, expected some of {', '.join(possible)}"
            )
        return tuple(dict.fromkeys(splits or possible))

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        self.problems, known_bad = [], self.known_bad or {}
        numbers = {name: number for number, name in enumerate(self.classes)}
        rows: dict[str, dict[str, ClipRow]] = {split: {} for split in self._files}
        for split, clips in rows.items():
            for where, filename, names in self._files[split]:
                clip_id = pathlib.PurePath(filename).stem
                labels = tuple(sorted({numbers[name] for name in names if name in numbers}))
                unknown = [repr(name) for name in names if name not in numbers]
                problems = {}
                if clip_id in known_bad:
                    problems["known bad"] = f"{known_bad[clip_id]}; left out"
                elif any(clip_id in others for others in rows.values()):
                    problems["duplicate row"] = f"{where}: the first is kept"
                elif not labels:
                    problems["no label"] = f"{where}: row skipped"
                else:
                    audio = FileAudio(self._find_path(split, filename))
                    clips[clip_id] = ClipRow(clip_id, filename, audio, labels)
                if unknown:
                    detail = f"{where}: {', '.join(unknown)} not in the classes"
                    problems["unknown label"] = detail
                self.problems += [
                    (split, Problem(filename, kind, detail)) for kind, detail in problems.items()
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

    csv: str  # name of the table
    folder: str  # of its audio, as in FSD50K.dev_audio or dev_audio
    labels: str = "labels"  # column: one label, or several with commas between
    columns: tuple[str, ...] = ()  # others that the table must have


class FreesoundCorpus(PublishedCorpus):
    """A corpus of which every split is a table and a folder of wav files."""

    max_clip_seconds = 30.0
    known_bad: ClassVar = {}
    title: ClassVar[str]  # with which the names of folders begin
    tables: ClassVar[Mapping[str, SplitTable]]
    has_vocabulary: ClassVar[bool] = False  # else the classes are those of the tables

    def _read_tables(self, splits: Sequence[str]) -> Mapping[str, Sequence[ListedFile]]:
        wanted = self._choose_splits(splits, self.tables)
        csvs = {split: self._find_table([self.tables[split].csv]) for split in wanted}
        self._folders = {split: self._find_folder(split) for split in wanted}
        self._tables = set(csvs.values())
        files = {split: list(self._list_files(split, path)) for split, path in csvs.items()}
        if self.has_vocabulary:
            self.classes, self.class_ids = read_vocabulary(self._find_table(["vocabulary.csv"]))
        else:
            all_files = [file for of_split in files.values() for file in of_split]
            self.classes = tuple(sorted({name for file in all_files for name in file.names}))
            self.class_ids = self.classes
        return files

    def _list_files(self, split: str, csv_path: pathlib.Path) -> Iterator[ListedFile]:
        table = self.tables[split]
        for line, row in read_rows(csv_path, ("fname", table.labels, *table.columns)):
            if row.get("split", split) == split:  # a table may be of several splits
                stem = row["fname"].strip().removesuffix(".wav")
                names = [name for name in map(str.strip, row[table.labels].split(",")) if name]
                yield ListedFile(f"{csv_path.name} line {line}", f"{stem}.wav", names)

    def _find_path(self, split: str, filename: str) -> str:
        return os.path.join(self._folders[split], filename)

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
    has_vocabulary = True
    tables: ClassVar = {
        "train": SplitTable("dev.csv", "dev_audio", columns=("split",)),
        "val": SplitTable("dev.csv", "dev_audio", columns=("split",)),
        "eval": SplitTable("eval.csv", "eval_audio"),
    }


class FsdKaggle2018(FreesoundCorpus):
    """FSDKaggle2018 (Zenodo record 2552860): 41 classes, one label a clip, 44.1 kHz.

    The official splits, as after the competition: train (9,473 clips) and test (1,600).
    """

    name, title = "fsdkaggle2018", "FSDKaggle2018"
    tables: ClassVar = {
        "train": SplitTable("train_post_competition.csv", "audio_train", "label"),
        "test": SplitTable("test_post_competition_scoring_clips.csv", "audio_test", "label"),
    }


class FsdKaggle2019(FreesoundCorpus):
    """FSDKaggle2019 (Zenodo record 3612637): 80 classes, several labels a clip, 44.1 kHz.

    The official splits: train_curated (4,970 clips), train_noisy (19,815) and test (4,481).
    """

    name, title = "fsdkaggle2019", "FSDKaggle2019"
    tables: ClassVar = {
        split: SplitTable(f"{split}_post_competition.csv", f"audio_{split}")
        for split in ("train_curated", "train_noisy", "test")
    }
    known_bad: ClassVar = {"1d44b0bd": "known to be silent"} | dict.fromkeys(
        ("f76181c4", "77b925c2", "6a1f682a", "c7db12aa", "7752cc8a"),
        "known to have a wrong label",
    )


# --- One table with folds -----------------------------------------------------------------------


class FoldCorpus(PublishedCorpus):
    """A corpus of which a table gives the fold of each file. Subclasses say which table."""

    # By file name, of which the first that is there is read: the columns of file, fold, number of
    # the class, and its name.
    tables: ClassVar[Mapping[str, tuple[str, str, str, str]]]

    def _read_tables(self, splits: Sequence[str]) -> Mapping[str, Sequence[ListedFile]]:
        path = self._find_table(self.tables)
        self._tables, columns = [path], self.tables[path.name]
        names: dict[int, str] = {}
        files: dict[int, list[ListedFile]] = {}
        for line, row in read_rows(path, columns):
            filename, fold, number, name = (row[column].strip() for column in columns)
            if not (fold.isdecimal() and number.isdecimal()):
                raise UserError(
                    f"{path} line {line}: {columns[1]} and {columns[2]} are {fold!r} and "
                    f"{number!r}, expected numbers"
                )
            name = names.setdefault(int(number), name)
            listed = ListedFile(f"{path.name} line {line}", filename, [name])
            files.setdefault(int(fold), []).append(listed)
        self.classes = tuple(names[number] for number in sorted(names))
        self.class_ids = tuple(map(str, sorted(names)))
        folds = {f"fold{fold}": files[fold] for fold in sorted(files)}
        return {split: folds[split] for split in self._choose_splits(splits, folds)}

    def _find_path(self, split: str, filename: str) -> str:
        # A copy may be of another format.
        stem = pathlib.PurePath(filename).stem
        return self._paths.get(stem, os.path.join(self.source_dir, filename))

    @functools.cached_property
    def _paths(self) -> dict[str, str]:
        """Where the audio of each name without extension lies."""
        paths: dict[str, str] = {}
        for path in walk_files(self.source_dir):
            stem, suffix = os.path.splitext(os.path.basename(path))
            if suffix.lower() in _AUDIO:
                paths.setdefault(stem, path)
        return paths


_ESC50_COLUMNS = ("filename", "fold", "target", "category")


class Esc50(FoldCorpus):
    """ESC-50 (Piczak, 2015): 2,000 clips of 5 s, 50 classes, 5 folds."""

    name = "esc50"
    tables: ClassVar = {"esc50.csv": _ESC50_COLUMNS, "meta.csv": _ESC50_COLUMNS}
    max_clip_seconds = 5.0


class UrbanSound8k(FoldCorpus):
    """UrbanSound8K (Salamon et al., 2014): 8,732 clips of up to 4 s, 10 classes, 10 folds."""

    name = "urbansound8k"
    tables: ClassVar = {
        "UrbanSound8K.csv": ("slice_file_name", "fold", "classID", "class"),
        "meta.csv": _ESC50_COLUMNS,
    }
    max_clip_seconds = 4.0


CORPORA: tuple[type[PublishedCorpus], ...] = (
    Esc50, UrbanSound8k, Fsd50k, FsdKaggle2018, FsdKaggle2019
)  # fmt: skip
