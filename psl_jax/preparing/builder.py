"""Writes the rows of a corpus as sharded clip records, with their index and a report."""

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

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.clip_rows import Loaded, Problem
from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files as index_lib
from psl_jax.data.clip_index import ClipIndex, joined
from psl_jax.data.tfds_metadata import INFO_NAME
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

    It writes shards one after the other as clips arrive, in row order, so memory does not grow with
    the corpus. They go to an unfinished folder, which gets the data set's name when all is in it. A
    later start uses the shards that a killed preparation left there (`unfinished_shards`).

    With Beam each of its workers writes a shard at a time: exactly the same files.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        data_dir: str | os.PathLike[str],
        num_workers: int | None = None,
        limit: int | None = None,
    ):
        """Args:
        corpus: the corpus to prepare.
        data_dir: the root; records go to `<data_dir>/<name>/<digest of settings>/<version>`.
        num_workers: threads that load clips, default one a core.
        limit: rows of each stored split to prepare, for a trial; default all.
        """
        self.corpus, self.num_workers, self.limit = corpus, num_workers, limit
        root = path_of(data_dir) / corpus.name
        self._folder = root / compute_settings_digest(self.settings) / VERSION
        self._added: Corpus | None = None
        if not self.is_prepared():
            self._reuse(root)
        # A bucket renames no folders: there the last file, dataset_info.json, completes it.
        self._unfinished_folder = self._folder
        if not is_remote(self._folder):
            self._unfinished_folder = self._folder.with_name(f"incomplete.{VERSION}")
        self._record_folder = self._folder.with_name(f"incomplete.{VERSION}.parts")
        self._beam_options: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return self._settings_of(self.corpus)

    def _settings_of(self, corpus: Corpus) -> dict[str, Any]:
        settings = dict(corpus.settings) | ({"limit": self.limit} if self.limit else {})
        rate = self.corpus.sample_rate
        return settings if rate == SAMPLE_RATE else settings | {"sample_rate": rate}

    def _reuse(self, root: pathlib.Path) -> None:
        """Finds a data set that differs in its splits alone, and adds the missing splits to it."""
        for path in sorted(root.glob(f"*/{VERSION}/{preparation_report.REPORT_NAME}")):
            stored_settings = files.read_json(path)["settings"]
            try:
                same_corpus = self._only(stored_settings.get("splits", ()))
            except UserError:  # a table of those splits is gone
                continue
            if (
                same_corpus is None
                or files.as_json(self._settings_of(same_corpus)) != stored_settings
            ):
                continue
            if added := set(self.corpus.settings["splits"]) - set(stored_settings["splits"]):
                self._added = self._only(sorted(added))
            self.corpus, self._folder = same_corpus, path.parent
            return

    def _only(self, splits: Sequence[str]) -> Corpus | None:
        corpus = self.corpus.only(splits)
        if corpus is not None:
            corpus.sample_rate = self.corpus.sample_rate
        return corpus

    @property
    def data_dir(self) -> str:
        """The folder of the data set, also before it exists."""
        return os.fspath(self._folder)

    def prepare(self, beam_options: str | None = None) -> dict[str, Any]:
        """Makes the data set, or its missing parts; returns its report.

        Args:
          beam_options: options of a Beam pipeline, whose workers write the shards; None: threads of
            this process write them.

        Raises:
          UserError: a split without any usable clip, recordings that have changed since a damaged
            shard was written, or a full disk.
        """
        self._beam_options = beam_options
        existed = self.is_prepared()
        with plain_disk_errors(self.data_dir, _DISK_ADVICE):
            is_whole = existed and not self._added and not self._record_folder.exists()
            if not is_whole or repair.is_incomplete(self._folder, self.corpus):
                with _lock_folder(self._folder.parent):
                    self._prepare_alone()
        report = preparation_report.read_report(self.data_dir)
        if report is None:
            raise UserError(f"{self.data_dir} has no report: delete it and prepare the data again")
        if existed:
            for note in self.corpus.notes(report):
                print(f"{note} ({self.data_dir})")
        return report

    def is_prepared(self) -> bool:
        """Tells whether the data set was completed; it may have lost a shard since."""
        if is_remote(self._folder):
            return (self._folder / INFO_NAME).exists()
        return self._folder.exists()

    def _prepare_alone(self) -> None:
        if self.is_prepared():  # perhaps by the process that held the lock before
            if repair.is_incomplete(self._folder, self.corpus):
                repair.repair(
                    self._folder, self.corpus, find_rows=self._rows, num_workers=self.num_workers
                )
            if self._added:
                self._add_splits(self._added)
            self._remove_leftovers()
            return
        own_folders = (self._unfinished_folder, self._record_folder)
        self._remove_leftovers(kept_folders=own_folders)
        for folder in own_folders:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):  # of files that were being written
                leftover.unlink()
        self._write_splits()
        if self._unfinished_folder != self._folder:
            self._unfinished_folder.rename(self._folder)
        self._remove_leftovers()

    def _remove_leftovers(self, kept_folders: Sequence[pathlib.Path] = ()) -> None:
        """Deletes the records of a whole data set's parts, and leftovers of earlier versions."""
        for leftover in self._folder.parent.glob("incomplete.*"):
            if leftover not in kept_folders:
                remove_tree(leftover)

    def _rows(self) -> dict[str, Sequence[Any]]:
        """Returns the rows of each stored split."""
        rows = self.corpus.rows()  # finds problems, too
        return {split: split_rows[: self.limit] for split, split_rows in rows.items()}

    def _add_splits(self, added: Corpus) -> None:
        """Writes more splits beside the present ones, and last the report, which names them."""
        former_report = preparation_report.read_report(self._folder)
        former_splits = former_report["settings"]["splits"] if former_report else []
        new_splits = [split for split in added.settings["splits"] if split not in former_splits]
        if not new_splits:  # by the process that held the lock before
            return
        whole_corpus = self.corpus.only([*former_splits, *new_splits])
        assert former_report is not None and whole_corpus is not None
        self.corpus, self._unfinished_folder = added, self._folder
        self._record_folder.mkdir(parents=True, exist_ok=True)
        all_rows, indices, contents = self._write_indices()
        stored_splits = index_lib.stored_splits(self._folder)
        indices = {
            split: index_lib.load_index(self._folder, split) for split in stored_splits
        } | indices
        unions = dataset_files.write_unions(self._folder, added, indices)
        dataset_files.write_metadata(self._folder, added, indices)
        report = self._report(
            all_rows, {split: indices[split] for split in contents}, contents, unions
        )
        self.corpus = whole_corpus
        changes = {
            "settings": self.settings,
            "splits": former_report["splits"] | report["splits"],
            "unions": index_lib.unions(self._folder),
            "same_audio": preparation_report.find_same_audio(list(indices.values())),
            "problems": former_report["problems"] + report["problems"],
        }
        preparation_report.write_report(self._folder, former_report | changes)

    def _write_splits(self) -> None:
        all_rows, indices, contents = self._write_indices()
        dataset_files.write_classes(self._unfinished_folder, self.corpus)
        unions = dataset_files.write_unions(self._unfinished_folder, self.corpus, indices)
        report = self._report(all_rows, indices, contents, unions)
        preparation_report.write_report(self._unfinished_folder, report)
        dataset_files.write_metadata(self._unfinished_folder, self.corpus, indices)

    def _write_indices(
        self,
    ) -> tuple[dict[str, Sequence[Any]], dict[str, ClipIndex], dict[str, shards.ShardContents]]:
        """Writes the shards and the index of each split; returns rows, indices and contents."""
        all_rows = self._rows()
        for split, rows in all_rows.items():
            if not rows:  # we say so before hours of writing other splits
                raise self.corpus.nothing_left(split, [])
        indices, contents = {}, {}
        for split, rows in all_rows.items():
            indices[split], contents[split] = self._write_split(split, rows)
        return all_rows, indices, contents

    def _write_split(
        self, split: str, rows: Sequence[Any]
    ) -> tuple[ClipIndex, shards.ShardContents]:
        parts = unfinished_shards.plan_parts(
            self._unfinished_folder, self._record_folder, split=split, rows=rows
        )
        all_contents = self._write_parts(split, parts)
        total = shards.ShardContents()
        for contents in all_contents:
            total.add(contents)
        if not total.clips:
            raise self.corpus.nothing_left(split, total.problems)
        kept_parts = [
            part for part, contents in zip(parts, all_contents, strict=True) if contents.clips
        ]
        for number, part in enumerate(kept_parts):
            if part.shard.exists():  # else it was renamed by the start before
                part.shard.rename(self._shard_path(split, number, len(kept_parts)))
        sizes = [len(contents.clips) for contents in all_contents if contents.clips]
        index = index_lib.build_index(
            split, self.corpus.classes, total.clips, sizes, self.corpus.sample_rate
        )
        index.save(index_lib.index_path(self._unfinished_folder, split))
        problems = list(dict.fromkeys(total.problems))  # once for all clips of a recording
        return index, dataclasses.replace(total, clips=[], problems=problems)

    def _shard_path(self, split: str, number: int, count: int) -> pathlib.Path:
        return dataset_files.make_shard_path(
            self._unfinished_folder, self.corpus.name, split=split, number=number, count=count
        )

    def _write_parts(
        self, split: str, parts: list[unfinished_shards.Part]
    ) -> list[shards.ShardContents]:
        """Writes the parts that are not whole; returns the contents of every part's shard."""
        contents = self._find_whole(split, parts)
        missing = [
            part
            for part, part_contents in zip(parts, contents, strict=True)
            if part_contents is None
        ]
        if len(missing) < len(parts):
            print(f"{split}: {len(parts) - len(missing)} of {len(parts)} shards are there")
        if not missing:
            return contents
        if self._beam_options is None:
            self._write_in_threads(split, missing, sum(len(part.rows) for part in parts))
        else:
            from psl_jax.preparing import beam_shards

            beam_shards.write_parts(
                missing,
                loader=self.corpus.clip_loader,
                has_events=self.corpus.has_events,
                options=self._beam_options,
                name=f"{self.corpus.name} {split}",
            )
        return unfinished_shards.find_whole(parts)

    def _find_whole(self, split: str, parts: list[unfinished_shards.Part]) -> list[Any]:
        """Returns the contents of whole parts, None for others."""
        records = unfinished_shards.read_records(parts)
        if None in records:
            return unfinished_shards.find_whole(parts)
        num_shards = sum(bool(contents.clips) for contents in records)
        final_paths = [self._shard_path(split, number, num_shards) for number in range(num_shards)]
        return unfinished_shards.find_whole(parts, final_paths)

    def _write_in_threads(
        self, split: str, missing: list[unfinished_shards.Part], num_rows: int
    ) -> None:
        """Writes shards in this process; several threads load clips, which come in order."""
        rows = [row for part in missing for row in part.rows]

        def load_rows() -> Generator[Loaded, None, None]:
            with progress.bar(num_rows, "clips", f"prepare {split}", num_rows - len(rows)) as bar:
                for item in ordered_map(self.corpus.clip_loader, rows, self.num_workers):
                    bar.update()
                    yield item

        with contextlib.closing(load_rows()) as stream:
            for number, part in enumerate(missing):
                clips = itertools.islice(stream, len(part.rows))
                unfinished_shards.write(part, clips, self.corpus.has_events)
                interrupts.note_saved(f"{number + 1} more shards of {split}")

    def _report(
        self,
        rows: Mapping[str, Sequence[Any]],
        indices: Mapping[str, ClipIndex],
        contents_of_split: Mapping[str, shards.ShardContents],
        unions: Mapping[str, list[str]],
    ) -> dict[str, Any]:
        """Makes the report of the data set, by split of the corpus."""
        num_absent = {} if self.limit else self.corpus.absent
        later_members = {name for names in unions.values() for name in names[1:]}
        members = {split: [split] for split in indices if split not in later_members} | dict(unions)
        reports = {}
        for split, names in members.items():
            # Some of these splits may have no clips.
            splits_of_corpus = {split, *self.corpus.unions.get(split, names)}
            known_problems = [
                problem
                for split_of_problem, problem in self.corpus.problems
                if split_of_problem in splits_of_corpus
            ]
            contents = shards.ShardContents()
            for name in names:
                contents.add(contents_of_split[name])
            reports[split] = preparation_report.describe_split(
                indices[split]
                if split in indices
                else joined([indices[name] for name in names], split),
                sum(len(rows[name]) for name in names)
                + sum(num_absent.get(name, 0) for name in splits_of_corpus),
                problems=known_problems + contents.problems,
                rates=contents.source_rates,
            )
        problems: list[tuple[str | None, Problem]] = list(self.corpus.problems)
        problems += [
            (split, problem)
            for split in contents_of_split
            for problem in contents_of_split[split].problems
        ]
        return {
            "corpus": self.corpus.name,
            "settings": self.settings,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "classes": len(self.corpus.classes),
            "splits": reports,
            "unions": unions,
            "same_audio": preparation_report.find_same_audio(list(indices.values())),
            "problems": [
                {
                    "split": split,
                    "file": problem.file,
                    "kind": problem.kind,
                    "detail": problem.detail,
                }
                for split, problem in problems
            ],
        }


def compute_settings_digest(settings: Mapping[str, Any]) -> str:
    """Computes twelve hexadecimal digits that change with any setting."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _lock_folder(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time prepare into `folder`; the others wait and find it done.

    It does nothing in a bucket, which has no locks.
    """
    if is_remote(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
