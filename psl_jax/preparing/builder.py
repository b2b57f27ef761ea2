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
from psl_jax.corpora.problems import Problem
from psl_jax.data import index_files as index_lib
from psl_jax.data.clip_index import ClipIndex, joined
from psl_jax.preparing import mending, metadata, parts, preparation_report, shards
from psl_jax.runtime import interrupts, progress
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
        self.settings = dict(corpus.settings) | ({"limit": limit} if limit else {})
        digest = settings_digest(self.settings)
        self._folder = path_of(data_dir) / corpus.name / digest / VERSION
        # A bucket renames no folders: there dataset_info.json, the last file, makes it whole.
        self._beginning = self._folder
        if not is_remote(self._folder):
            self._beginning = self._folder.with_name(f"incomplete.{VERSION}")
        self._told = self._folder.with_name(f"incomplete.{VERSION}.parts")
        self._beam_options: str | None = None

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
            if not existed or self._told.exists() or mending.lacks(self._folder, self.corpus):
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
            if mending.lacks(self._folder, self.corpus):
                mending.mend(self._folder, self.corpus, self._rows, self.num_workers)
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

    def _write_splits(self) -> None:
        all_rows = self._rows()
        for split, rows in all_rows.items():
            if not rows:  # told before another one is written for hours
                raise self.corpus.nothing_left(split, [])
        indices, found = {}, {}
        for split, rows in all_rows.items():
            indices[split], found[split] = self._write_split(split, rows)
        metadata.write_classes(self._beginning, self.corpus)
        unions = metadata.write_unions(self._beginning, self.corpus, indices)
        report = self._report(all_rows, indices, found, unions)
        preparation_report.write_report(self._beginning, report)
        metadata.write_metadata(self._beginning, self.corpus, indices)

    def _write_split(
        self, split: str, rows: Sequence[Any]
    ) -> tuple[ClipIndex, shards.ShardContents]:
        planned = parts.plan(self._beginning, self._told, split, rows)
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
        return index, dataclasses.replace(total, clips=[])

    def _shard_path(self, split: str, number: int, count: int) -> pathlib.Path:
        return metadata.shard_path(self._beginning, self.corpus.name, split, number, count)

    def _write_parts(self, split: str, planned: list[parts.Part]) -> list[shards.ShardContents]:
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
        return parts.whole(planned)

    def _whole(self, split: str, planned: list[parts.Part]) -> list:
        """What the whole parts hold, None for others."""
        told = parts.read(planned)
        if None in told:
            return parts.whole(planned)
        count = sum(bool(contents.clips) for contents in told)
        final = [self._shard_path(split, number, count) for number in range(count)]
        return parts.whole(planned, final)

    def _write_here(self, split: str, missing: list[parts.Part], total: int) -> None:
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
                parts.write(part, clips, self.corpus.has_events)
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
