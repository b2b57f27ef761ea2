"""The base of our TFDS builders: rows in, sharded clip records and a report out."""

import contextlib
import datetime
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import absl.logging
import tensorflow_datasets as tfds
from tensorflow_datasets.core import splits

from psl_jax.corpora.clip_rows import Loaded
from psl_jax.corpora.corpus import Corpus
from psl_jax.corpora.problems import Problem
from psl_jax.data import index_files as index_lib
from psl_jax.data.clip_index import ClipIndex
from psl_jax.preparing import clip_records, preparation_report, shards
from psl_jax.preparing.workers import ordered_map
from psl_jax.runtime import files, progress
from psl_jax.runtime.disk import plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

_DISK_ADVICE = (
    "Nothing half written was kept. Or put data.data_dir on another disk; an hour of audio takes "
    "115 MB."
)


class ClipBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes the rows of a corpus as shards of clip records.

    Shards are written one after the other as clips arrive, in row order, so memory does not grow
    with the corpus (the writer of `GeneratorBasedBuilder` gathers up to 1 GB and sorts it again on
    disk). Everything is written to a temporary folder that TFDS renames when whole; index, class
    list and report are in it.

    With Beam each of its workers writes a shard at a time: the very same files.
    """

    VERSION = tfds.core.Version("1.0.0")
    # There is nothing to download or to cite: TFDS looks for no checksum and metadata files.
    pkg_dir_path = pathlib.Path(__file__).parent
    code_path = None

    def __init__(
        self, corpus: Corpus, *, data_dir: str | os.PathLike, num_workers: int | None = None
    ):
        """Args:
        corpus: what is prepared.
        data_dir: the root; records go to `<data_dir>/<name>/<digest of settings>/<version>`.
        num_workers: threads that load clips, default one a core.
        """
        self.corpus, self.num_workers = corpus, num_workers
        self.name = corpus.name
        self._beam_options: str | None = None
        digest = settings_digest(corpus.settings)
        config = tfds.core.BuilderConfig(name=digest, version=self.VERSION)
        tensorflow_quietly()  # before TFDS imports it
        with _absl_quiet():  # TFDS warns of any configuration that is not a class attribute
            super().__init__(data_dir=os.fspath(data_dir), config=config)

    def prepare(self, beam_options: str | None = None) -> dict[str, Any]:
        """Makes the data set if it is not there whole; returns its report.

        Args:
          beam_options: of a Beam pipeline, whose workers then write the shards; None: threads of
            this process.

        Raises:
          UserError: a split without any usable clip, or the disk is full.
        """
        self._beam_options = beam_options
        existed = self.is_prepared()
        if not existed:
            with (
                plain_disk_errors(self.data_dir, _DISK_ADVICE),
                _locked(pathlib.Path(self.data_dir).parent),
            ):
                self._prepare_alone()
        report = preparation_report.read_report(self.data_dir)
        if report is None:
            raise UserError(f"{self.data_dir} has no report: delete it and prepare the data again")
        if existed:
            for note in self.corpus.notes(report):
                print(f"{note} ({self.data_dir})")
        return report

    def _prepare_alone(self) -> None:
        if self.is_prepared():  # by the process that held the lock before
            return
        self._remove_leftovers()
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        with tempfile.TemporaryDirectory() as no_downloads:
            self.download_and_prepare(download_dir=no_downloads, download_config=config)

    def is_prepared(self) -> bool:
        return os.path.exists(os.path.join(self.data_dir, "dataset_info.json"))

    def _remove_leftovers(self) -> None:
        """What a killed preparation left: TFDS's temporary folders, and a folder without info."""
        target = pathlib.Path(self.data_dir)
        for leftover in [*target.parent.glob(f"incomplete.*_{target.name}"), target]:
            if leftover.is_dir():
                shutil.rmtree(leftover)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.name}: clips at 16 kHz with weak labels; made by psl_jax.",
            features=clip_records.features(self.corpus.classes, events=self.corpus.has_events),
            disable_shuffling=True,
        )

    def _log_download_bytes(self) -> None:
        """TFDS would announce a download."""

    def _log_download_done(self) -> None:
        """TFDS would announce the end of a download."""

    def _split_generators(self, dl_manager: Any) -> Any:
        raise NotImplementedError("splits are written by _download_and_prepare")

    def _generate_examples(self, **kwargs: Any) -> Any:
        raise NotImplementedError("splits are written by _download_and_prepare")

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        del dl_manager, download_config
        # Told here already: afterwards TFDS has removed what it wrote and there is room again.
        with plain_disk_errors(self._data_dir_root, _DISK_ADVICE):
            self._write_splits()

    def _write_splits(self) -> None:
        folder = pathlib.Path(self.data_dir)  # the temporary one while TFDS prepares
        all_rows = self.corpus.rows()  # finds problems, too
        for split, rows in all_rows.items():
            if not rows:  # told before another one is written for hours
                raise self.corpus.nothing_left(split, [])
        indices = []
        split_infos, reports, problems = [], {}, list(self.corpus.problems)
        for split, rows in all_rows.items():
            index, contents = self._write_split(folder, split, rows)
            indices.append(index)
            known = [problem for where, problem in self.corpus.problems if where == split]
            problems += [(split, problem) for problem in contents.problems]
            split_infos.append(
                splits.SplitInfo(
                    name=split,
                    shard_lengths=index.shard_sizes.tolist(),
                    num_bytes=contents.num_bytes,
                    filename_template=self._get_filename_template(split_name=split),
                )
            )
            reports[split] = preparation_report.split_report(
                index,
                len(rows) + self.corpus.absent.get(split, 0),
                known + contents.problems,
                contents.source_rates,
            )
        self.info.set_splits(splits.SplitDict(split_infos))
        files.write_csv(
            folder / "classes.csv",
            ("index", "mid", "display_name"),
            zip(
                range(len(self.corpus.classes)),
                self.corpus.class_ids,
                self.corpus.classes,
                strict=True,
            ),
        )
        preparation_report.write_report(folder, self._report(reports, problems, indices))

    def _write_split(
        self, folder: pathlib.Path, split: str, rows: Sequence[Any]
    ) -> tuple[ClipIndex, shards.ShardContents]:
        parts = shards.plan(len(rows))
        paths = [folder / f"part-{split}-{number:05d}" for number in range(len(parts))]
        if self._beam_options is None:
            written = self._write_parts(split, rows, parts, paths)
        else:
            from psl_jax.preparing import beam_shards

            written = beam_shards.write_shards(
                [rows[part] for part in parts],
                paths,
                loader=self.corpus.loader(),
                has_events=self.corpus.has_events,
                options=self._beam_options,
                name=f"{self.name} {split}",
            )
        whole = shards.ShardContents()
        for contents in written:
            whole.add(contents)
        if not whole.clips:
            raise self.corpus.nothing_left(split, whole.problems)
        kept = [path for path, contents in zip(paths, written, strict=True) if contents.clips]
        template = self._get_filename_template(split_name=split)
        for number, path in enumerate(kept):
            path.rename(template.sharded_filepath(shard_index=number, num_shards=len(kept)))
        sizes = [len(contents.clips) for contents in written if contents.clips]
        index = index_lib.build_index(split, self.corpus.classes, whole.clips, sizes)
        index.save(folder / f"index-{split}.npz")
        return index, whole

    def _write_parts(
        self, split: str, rows: Sequence[Any], parts: list[slice], paths: list[pathlib.Path]
    ) -> list[shards.ShardContents]:
        """Writes the shards here; clips are loaded by several threads and come in order."""

        def loaded() -> Generator[Loaded, None, None]:
            items = ordered_map(self.corpus.loader(), rows, self.num_workers)
            yield from progress.track(items, len(rows), "clips", f"prepare {split}")

        with contextlib.closing(loaded()) as stream:
            return [
                shards.write_shard(
                    path,
                    itertools.islice(stream, part.stop - part.start),
                    self.corpus.has_events,
                )
                for part, path in zip(parts, paths, strict=True)
            ]

    def _report(
        self,
        reports: dict[str, Any],
        problems: list[tuple[str | None, Problem]],
        indices: list[ClipIndex],
    ) -> dict[str, Any]:
        return {
            "corpus": self.corpus.name,
            "settings": self.corpus.settings,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "classes": len(self.corpus.classes),
            "splits": reports,
            "same_audio": preparation_report.same_audio(indices),
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
    """Lets one process at a time prepare into `folder`; the others wait and find it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _absl_quiet() -> Iterator[None]:
    level = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(level)
