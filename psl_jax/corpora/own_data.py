"""A folder of one's own recordings ; labels_folder.py says what it looks like."""

import datetime
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from psl_jax.corpora.clip_rows import ClipRow, Loader, load_clip
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.labels_folder import read_folder
from psl_jax.corpora.preparation_problems import Problem
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import path_of


class OwnData(Corpus):
    """Every `{split}.csv` of a folder as a split."""

    name = "own_data"

    def __init__(
        self,
        *,
        source_dir: str | os.PathLike,
        max_clip_seconds: float = 10.0,
        label_separator: str = ";",
    ):
        """Reads the CSVs; raises UserError where they are of another form."""
        if max_clip_seconds <= 0 or not label_separator:
            raise UserError(
                "own_data: max_clip_seconds must be above 0 and label_separator not empty, got "
                f"{max_clip_seconds} and {label_separator!r}"
            )
        self.folder = read_folder(source_dir, label_separator)
        self.max_clip_seconds = max_clip_seconds
        self.classes, self.class_ids = self.folder.classes, self.folder.class_ids
        self.has_events = self.folder.has_events
        self.problems = list(self.folder.problems)
        self.settings = {
            "source_dir": self.folder.path,
            "max_clip_seconds": max_clip_seconds,
            "label_separator": label_separator,
            "csv_sha256": self.folder.csv_sha256,
        }

    def rows(self) -> Mapping[str, Sequence[ClipRow]]:
        return self.folder.rows

    def loader(self) -> Loader:
        return functools.partial(load_clip, max_seconds=self.max_clip_seconds)

    def notes(self, report: Mapping[str, Any]) -> list[str]:
        made = datetime.datetime.fromisoformat(report["made"]).timestamp() + 1
        paths = {os.path.join(self.folder.path, p["file"]) for p in report["problems"]}
        found = [path for path in map(path_of, paths) if path.exists()]
        if newer := [path for path in found if path.stat().st_mtime > made]:
            return [
                f"note: {len(newer)} of the files with problems have changed since, such as "
                f"{newer[0]}. To prepare the data again, delete its folder"
            ]
        return []

    def nothing_left(self, split: str, problems: list[Problem]) -> UserError:
        root = path_of(self.folder.path)
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
