"""Writes the rows of a split as shards, and their index."""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Generator, Sequence
from typing import Any

from psl_jax.corpora.clip_rows import Loaded
from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import dataset_files, shards, unfinished_shards
from psl_jax.preparing.shards import ShardContents
from psl_jax.preparing.unfinished_shards import Part
from psl_jax.runtime import interrupts, progress
from psl_jax.runtime.ordered_map import ordered_map


@dataclasses.dataclass
class SplitWriter:
    """Writes splits of a corpus into `folder`; whole shards of an earlier start are kept.

    Attributes:
      record_folder: where the records of its parts lie, see `unfinished_shards`.
      num_workers: threads that load clips, default one a core.
      beam_options: of a Beam pipeline, whose workers write the shards; None: this process does.
    """

    corpus: Corpus
    folder: pathlib.Path
    record_folder: pathlib.Path
    num_workers: int | None
    beam_options: str | None

    def write(self, split: str, rows: Sequence[Any]) -> tuple[ClipIndex, ShardContents]:
        """Returns the index, and what there is to report. Raises UserError without any clip."""
        parts = [
            Part(
                self.folder / f"part-{split}-{number:05d}",
                self.record_folder / f"{split}-{number:05d}.json",
                rows[row_slice],
            )
            for number, row_slice in enumerate(shards.plan_shards(len(rows)))
        ]

        def make_final_path(number: int, count: int) -> pathlib.Path:
            return dataset_files.make_shard_path(
                self.folder, self.corpus.name, split=split, number=number, count=count
            )

        whole = unfinished_shards.find_whole(parts, make_final_path)
        missing = [part for part, contents in zip(parts, whole, strict=True) if contents is None]
        if len(missing) < len(parts):
            print(f"{split}: {len(parts) - len(missing)} of {len(parts)} shards are there")
        if missing:
            self._write_parts(split, missing, len(rows))
            whole = unfinished_shards.find_whole(parts, make_final_path)
        total, kept_parts, sizes = ShardContents(), [], []
        for part, contents in zip(parts, whole, strict=True):
            assert contents is not None
            total.add(contents)
            if contents.clips:
                kept_parts.append(part)
                sizes.append(len(contents.clips))
        if not total.clips:
            raise self.corpus.nothing_left(split, total.problems)
        for number, part in enumerate(kept_parts):
            if part.shard.exists():  # else it was renamed by the start before
                part.shard.rename(make_final_path(number, len(kept_parts)))
        index = split_index_files.build_index(
            split, self.corpus.classes, total.clips, sizes, self.corpus.sample_rate
        )
        index.save(split_index_files.index_path(self.folder, split))
        problems = list(dict.fromkeys(total.problems))  # once for all clips of a recording
        return index, dataclasses.replace(total, clips=[], problems=problems)

    def _write_parts(self, split: str, parts: Sequence[Part], num_rows: int) -> None:
        """Writes parts of a split of `num_rows`; several threads or Beam's workers load clips."""
        if self.beam_options is not None:
            from psl_jax.preparing import beam_shards

            beam_shards.write_parts(
                parts,
                loader=self.corpus.loader(),
                has_events=self.corpus.has_events,
                options=self.beam_options,
                name=f"{self.corpus.name} {split}",
            )
            return
        rows = [row for part in parts for row in part.rows]

        def load_rows() -> Generator[Loaded, None, None]:
            with progress.bar(num_rows, "clips", f"prepare {split}", num_rows - len(rows)) as bar:
                for item in ordered_map(self.corpus.loader(), rows, self.num_workers):
                    bar.update()
                    yield item

        with contextlib.closing(load_rows()) as loaded:  # in the order of the rows
            for number, part in enumerate(parts):
                part.write(itertools.islice(loaded, len(part.rows)), self.corpus.has_events)
                interrupts.note_saved(f"{number + 1} more shards of {split}")
