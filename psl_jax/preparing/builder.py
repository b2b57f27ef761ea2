"""Rows of a corpus in; sharded clip records, their index and a report out."""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from psl_jax.corpora.clip_rows import Loaded
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.preparation_problems import Problem
from psl_jax.data import split_index_files as index_lib
from psl_jax.data.clip_index import ClipIndex, joined
from psl_jax.preparing import dataset_files, preparation_report, repair, shards, unfinished_shards
from psl_jax.runtime import files, interrupts, progress
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map
from psl_jax.runtime.paths import is_remote, path_of, remove_tree

VERSION = "1.0.0"
_DISK_ADVICE = (
    "Whole shards are kept, and the same command goes on after them. Or put data.data_dir on "
    "another disk; an hour of audio takes 115 MB."
)


class ClipBuilder:
    """Writes the rows of a corpus as shards of clip records: a data set that TFDS can read.

    Shards are written one after the other as clips arrive, in row order, so memory does not grow
    with the corpus. They lie in a folder beside the data set's place, which is given its name when
    everything is in it; what a killed preparation left there is used (`parts`).

    With Beam each of its workers writes a shard at a time: the very same files.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        data_dir: str | os.PathLike,
        num_workers: int | None = None,
        limit: int | None = None,
    ):
        """Args:
        corpus: what is prepared.
        data_dir: the root; records go to `<data_dir>/<name>/<digest of settings>/<version>`.
        num_workers: threads that load clips, default one a core.
        limit: clips tried of each stored split, to try things out; default all.
        """
        self.corpus, self.num_workers, self.limit = corpus, num_workers, limit
        root = path_of(data_dir) / corpus.name
        self._folder = root / settings_digest(self.settings) / VERSION
        self._added: Corpus | None = None
        if not self.is_prepared():
            self._reuse(root)
        # A bucket renames no folders: there dataset_info.json, the last file, makes it whole.
        self._beginning = self._folder
        if not is_remote(self._folder):
            self._beginning = self._folder.with_name(f"incomplete.{VERSION}")
        self._told = self._folder.with_name(f"incomplete.{VERSION}.parts")
        self._beam_options: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return self._settings_of(self.corpus)

    def _settings_of(self, corpus: Corpus) -> dict[str, Any]:
        return dict(corpus.settings) | ({"limit": self.limit} if self.limit else {})

    def _reuse(self, root: pathlib.Path) -> None:
        """Takes a data set that differs in its splits alone, to which those it lacks are added."""
        for path in sorted(root.glob(f"*/{VERSION}/{preparation_report.REPORT_NAME}")):
            stored = files.read_json(path)["settings"]
            try:
                same = self.corpus.only(stored.get("splits", ()))
            except UserError:  # a table of those splits is gone
                continue
            if same is None or files.as_json(self._settings_of(same)) != stored:
                continue
            if added := set(self.corpus.settings["splits"]) - set(stored["splits"]):
                self._added = self.corpus.only(sorted(added))
            self.corpus, self._folder = same, path.parent
            return

    @property
    def data_dir(self) -> str:
        """Where the data set lies, or will."""
        return os.fspath(self._folder)

    def prepare(self, beam_options: str | None = None) -> dict[str, Any]:
        """Makes the data set, or what of it is not there whole; returns its report.

        Args:
          beam_options: of a Beam pipeline, whose workers then write the shards; None: threads of
            this process.

        Raises:
          UserError: a split without any usable clip, recordings that are others than those of a
            shard that is to be made again, or a full disk.
        """
        self._beam_options = beam_options
        existed = self.is_prepared()
        with plain_disk_errors(self.data_dir, _DISK_ADVICE):
            is_whole = existed and not self._added and not self._told.exists()
            if not is_whole or repair.lacks(self._folder, self.corpus):
                with _locked(self._folder.parent):
                    self._prepare_alone()
        report = preparation_report.read_report(self.data_dir)
        if report is None:
            raise UserError(f"{self.data_dir} has no report: delete it and prepare the data again")
        if existed:
            for note in self.corpus.notes(report):
                print(f"{note} ({self.data_dir})")
        return report

    def is_prepared(self) -> bool:
        """Whether the data set has its place; a shard may have been lost since."""
        if is_remote(self._folder):
            return (self._folder / index_lib.INFO_NAME).exists()
        return self._folder.exists()

    def _prepare_alone(self) -> None:
        if self.is_prepared():  # perhaps by the process that held the lock before
            if repair.lacks(self._folder, self.corpus):
                repair.mend(self._folder, self.corpus, self._rows, self.num_workers)
            if self._added:
                self._add_splits(self._added)
            self._remove_leftovers()
            return
        ours = (self._beginning, self._told)
        self._remove_leftovers(but=ours)
        for folder in ours:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):  # of files that were being written
                leftover.unlink()
        self._write_splits()
        if self._beginning != self._folder:
            self._beginning.rename(self._folder)
        self._remove_leftovers()

    def _remove_leftovers(self, but: Sequence[pathlib.Path] = ()) -> None:
        """What is known of the parts of a whole data set, and what earlier versions left."""
        for leftover in self._folder.parent.glob("incomplete.*"):
            if leftover not in but:
                remove_tree(leftover)

    def _rows(self) -> dict[str, Sequence[Any]]:
        """The rows of each split that is stored."""
        rows = self.corpus.rows()  # finds problems, too
        return {split: part[: self.limit] for split, part in rows.items()}

    def _add_splits(self, added: Corpus) -> None:
        """Writes more splits beside those that are there; the report, which names them, last."""
        former = preparation_report.read_report(self._folder)
        names = former["settings"]["splits"] if former else []
        new = [split for split in added.settings["splits"] if split not in names]
        if not new:  # by the process that held the lock before
            return
        total = self.corpus.only([*names, *new])
        assert former is not None and total is not None
        self.corpus, self._beginning = added, self._folder
        self._told.mkdir(parents=True, exist_ok=True)
        all_rows, indices, contents = self._write_indices()
        stored = index_lib.stored_splits(self._folder)
        indices = {split: index_lib.load_index(self._folder, split) for split in stored} | indices
        unions = dataset_files.write_unions(self._folder, added, indices)
        dataset_files.write_metadata(self._folder, added, indices)
        report = self._report(
            all_rows, {split: indices[split] for split in contents}, contents, unions
        )
        self.corpus = total
        more = {
            "settings": self.settings,
            "splits": former["splits"] | report["splits"],
            "unions": index_lib.unions(self._folder),
            "same_audio": preparation_report.same_audio(list(indices.values())),
            "problems": former["problems"] + report["problems"],
        }
        preparation_report.write_report(self._folder, former | more)

    def _write_splits(self) -> None:
        all_rows, indices, contents = self._write_indices()
        dataset_files.write_classes(self._beginning, self.corpus)
        unions = dataset_files.write_unions(self._beginning, self.corpus, indices)
        report = self._report(all_rows, indices, contents, unions)
        preparation_report.write_report(self._beginning, report)
        dataset_files.write_metadata(self._beginning, self.corpus, indices)

    def _write_indices(self) -> tuple[dict, dict[str, ClipIndex], dict[str, shards.ShardContents]]:
        """Writes the shards and the index of each split: their rows, indices and contents."""
        all_rows = self._rows()
        for split, rows in all_rows.items():
            if not rows:  # told before another one is written for hours
                raise self.corpus.nothing_left(split, [])
        indices, found = {}, {}
        for split, rows in all_rows.items():
            indices[split], found[split] = self._write_split(split, rows)
        return all_rows, indices, found

    def _write_split(
        self, split: str, rows: Sequence[Any]
    ) -> tuple[ClipIndex, shards.ShardContents]:
        planned = unfinished_shards.plan(self._beginning, self._told, split, rows)
        written = self._write_parts(split, planned)
        total = shards.ShardContents()
        for contents in written:
            total.add(contents)
        if not total.clips:
            raise self.corpus.nothing_left(split, total.problems)
        kept = [part for part, told in zip(planned, written, strict=True) if told.clips]
        for number, part in enumerate(kept):
            if part.shard.exists():  # else it was renamed by the start before
                part.shard.rename(self._shard_path(split, number, len(kept)))
        sizes = [len(contents.clips) for contents in written if contents.clips]
        index = index_lib.build_index(split, self.corpus.classes, total.clips, sizes)
        index.save(index_lib.index_path(self._beginning, split))
        problems = list(dict.fromkeys(total.problems))  # once for all clips of a recording
        return index, dataclasses.replace(total, clips=[], problems=problems)

    def _shard_path(self, split: str, number: int, count: int) -> pathlib.Path:
        return dataset_files.shard_path(self._beginning, self.corpus.name, split, number, count)

    def _write_parts(
        self, split: str, planned: list[unfinished_shards.Part]
    ) -> list[shards.ShardContents]:
        """Writes what is not there whole; what every part's shard holds."""
        contents = self._whole(split, planned)
        missing = [part for part, told in zip(planned, contents, strict=True) if told is None]
        if len(missing) < len(planned):
            print(f"{split}: {len(planned) - len(missing)} of {len(planned)} shards are there")
        if not missing:
            return contents
        if self._beam_options is None:
            self._write_here(split, missing, sum(len(part.rows) for part in planned))
        else:
            from psl_jax.preparing import beam_shards

            beam_shards.write_parts(
                missing,
                loader=self.corpus.loader(),
                has_events=self.corpus.has_events,
                options=self._beam_options,
                name=f"{self.corpus.name} {split}",
            )
        return unfinished_shards.whole(planned)

    def _whole(self, split: str, planned: list[unfinished_shards.Part]) -> list:
        """What the whole parts hold, None for others."""
        told = unfinished_shards.read(planned)
        if None in told:
            return unfinished_shards.whole(planned)
        count = sum(bool(contents.clips) for contents in told)
        final = [self._shard_path(split, number, count) for number in range(count)]
        return unfinished_shards.whole(planned, final)

    def _write_here(self, split: str, missing: list[unfinished_shards.Part], total: int) -> None:
        """Writes shards in this process; clips are loaded by several threads and come in order."""
        rows = [row for part in missing for row in part.rows]

        def loaded() -> Generator[Loaded, None, None]:
            with progress.bar(total, "clips", f"prepare {split}", total - len(rows)) as bar:
                for item in ordered_map(self.corpus.loader(), rows, self.num_workers):
                    bar.update()
                    yield item

        with contextlib.closing(loaded()) as stream:
            for number, part in enumerate(missing):
                clips = itertools.islice(stream, len(part.rows))
                unfinished_shards.write(part, clips, self.corpus.has_events)
                interrupts.note_saved(f"{number + 1} more shards of {split}")

    def _report(
        self,
        rows: Mapping[str, Sequence[Any]],
        indices: Mapping[str, ClipIndex],
        found: Mapping[str, shards.ShardContents],
        unions: Mapping[str, list[str]],
    ) -> dict[str, Any]:
        """What is told of the data set, by split of the corpus."""
        absent = {} if self.limit else self.corpus.absent
        rest = {name for names in unions.values() for name in names[1:]}
        members = {split: [split] for split in indices if split not in rest} | dict(unions)
        reports = {}
        for split, names in members.items():
            asked = {split, *self.corpus.unions.get(split, names)}  # of some there may be nothing
            known = [problem for where, problem in self.corpus.problems if where in asked]
            contents = shards.ShardContents()
            for name in names:
                contents.add(found[name])
            reports[split] = preparation_report.split_report(
                indices[split] if split in indices else joined([indices[n] for n in names], split),
                sum(len(rows[name]) for name in names) + sum(absent.get(name, 0) for name in asked),
                known + contents.problems,
                contents.source_rates,
            )
        problems: list[tuple[str | None, Problem]] = list(self.corpus.problems)
        problems += [(split, problem) for split in found for problem in found[split].problems]
        return {
            "corpus": self.corpus.name,
            "settings": self.settings,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "classes": len(self.corpus.classes),
            "splits": reports,
            "unions": unions,
            "same_audio": preparation_report.same_audio(list(indices.values())),
            "problems": [
                {"split": split, "file": p.file, "kind": p.kind, "detail": p.detail}
                for split, p in problems
            ],
        }


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time prepare into `folder`; the others wait and find it done.

    Not in a bucket, which has no locks.
    """
    if is_remote(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
