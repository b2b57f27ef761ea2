"""FSD50K, FSDKaggle2018 and FSDKaggle2019: tables of file names and labels beside audio folders."""

import csv
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

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

CLIP_SECONDS = 30.0  # the longest clips of these corpora


@dataclasses.dataclass(frozen=True)
class SplitTable:
    """Where a split is described, and where its audio lies."""

    csvs: tuple[str, ...]  # names of the table, the first that is there
    folders: tuple[str, ...]  # names of the folder of its audio, the first that is there
    labels: str  # column: one label, or several with commas between
    keep: Callable[[dict[str, str]], bool] = lambda row: True  # the rows of this split
    columns: tuple[str, ...] = ()  # others that the table must have


class FreesoundCorpus(Corpus):
    """A corpus of which every split is a table and a folder of wav files.

    Subclasses give `tables` and, where clips are known to be bad, `known_bad`.
    """

    has_events = False
    tables: ClassVar[Mapping[str, SplitTable]]
    known_bad: ClassVar[Mapping[str, str]] = {}  # file name without extension: why

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike[str],
        splits: Sequence[str] = (),
        max_clip_seconds: float = CLIP_SECONDS,
        include_known_bad: bool = False,
    ):
        """Finds tables and folders; raises UserError for what is missing.

        Args:
          source_dir: the corpus's folder as published, its archives unpacked.
          splits: default all.
          include_known_bad: keep the clips in `known_bad`.
        """
        self.source_dir = existing_folder(source_dir, f"the unpacked archives of {self.name}")
        if unknown := [name for name in splits if name not in self.tables]:
            known = ", ".join(self.tables)
            raise UserError(f"{self.name} has no split {unknown[0]!r}, expected some of {known}")
        self._splits = tuple(dict.fromkeys(splits)) or tuple(self.tables)
        root = pathlib.Path(self.source_dir)
        self._csvs = {split: self._find_csv(root, self.tables[split]) for split in self._splits}
        self._folders = {split: self._find_folder(root, split) for split in self._splits}
        self.max_clip_seconds = max_clip_seconds
        self._left_out = {} if include_known_bad else self.known_bad
        self.classes, self.class_ids = self._read_classes()
        self.settings = {
            "source_dir": self.source_dir,
            "splits": self._splits,
            "max_clip_seconds": max_clip_seconds,
            "include_known_bad": include_known_bad,
            "csv_sha256": hash_files(set(self._csvs.values())),
            "classes": self.classes,
        }

    def only(self, splits: Sequence[str]) -> "FreesoundCorpus":
        return type(self)(
            source_dir=self.source_dir,
            splits=splits,
            max_clip_seconds=self.max_clip_seconds,
            include_known_bad=self.settings["include_known_bad"],
        )

    def loader(self) -> Loader:
        return functools.partial(load_clip, max_seconds=self.max_clip_seconds)

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
            for split in self._splits
            for _, row in self._read(split)
            for name in _names(row[self.tables[split].labels])
        }
        classes = tuple(sorted(names))
        return classes, classes

    def _find_csv(self, root: pathlib.Path, table: SplitTable) -> pathlib.Path:
        for name in table.csvs:
            if found := find_tables(root, name):
                return found[0]
        raise UserError(
            f"{' or '.join(table.csvs)} is neither in {root} nor in a folder in it. There is\n"
            f"{_contents(root)}Expected the archives of {self.name}, unpacked side by side."
        )

    def _find_folder(self, root: pathlib.Path, split: str) -> str:
        names = self.tables[split].folders
        for name in names:
            found = sorted(p for p in (*root.glob(name), *root.glob(f"*/{name}")) if p.is_dir())
            if found:
                return os.fspath(found[0])
        raise UserError(
            f"no folder {' or '.join(names)} in {root}: it should hold the audio of split "
            f"{split!r}. There is\n{_contents(root)}Unpack the archive, or choose other --splits."
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


def _contents(root: pathlib.Path) -> str:
    return listing(sorted(os.listdir(root))[:10])


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
