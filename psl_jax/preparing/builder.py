"""Writes the rows of a corpus as sharded clip records, with their index and a report."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.split_index_files import INFO_NAME
from psl_jax.preparing import preparation_report
from psl_jax.preparing.split_writer import make_shard_path, write_split
from psl_jax.runtime import files
from psl_jax.runtime.disk_errors import check_writable, plain_disk_errors
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, path_of, remove_tree
from psl_jax.runtime.quiet_tensorflow import tensorflow_quietly

VERSION = "1.0.0"
_DISK_ADVICE = (
    "Whole shards are kept, and the same command goes on after them. Or put data.data_dir on "
    "another disk; an hour of audio takes 115 MB."
)


class ClipBuilder:
    """Writes the rows of a corpus as shards of clip records: a data set that TFDS can read.

    It writes shards one after the other as clips arrive, in row order, so memory does not grow with
    the corpus. They go to an unfinished folder, which gets the data set's name when all is in it. A
    later start uses the shards that a killed preparation left there (`split_writer`).
    """

    def __init__(
        self, corpus: Corpus, *, data_dir: str | os.PathLike[str], num_workers: int | None = None
    ):
        """Records go to `<data_dir>/<name>/<digest of settings>/<version>`.

        num_workers: threads that load clips.
        """
        self.corpus, self.num_workers = corpus, num_workers
        root = path_of(data_dir) / corpus.name
        text = json.dumps(_describe_settings(corpus), sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._folder = root / digest / VERSION
        self._added: Corpus | None = None
        if not self.is_prepared():
            self._reuse(root)
        # A bucket renames no folders: there the last file, dataset_info.json, completes it.
        self._unfinished_folder = self._folder
        if not is_remote(self._folder):
            self._unfinished_folder = self._folder.with_name(f"incomplete.{VERSION}")
        self._record_folder = self._folder.with_name(f"incomplete.{VERSION}.parts")

    def _reuse(self, root: pathlib.Path) -> None:
        """Finds a data set that differs in its splits alone, and adds the missing splits to it."""
        if not self.corpus.arguments:
            return
        for path in sorted(root.glob(f"*/{VERSION}/{preparation_report.REPORT_NAME}")):
            stored_settings = files.read_json(path)["settings"]
            stored_splits = stored_settings.get("splits", ())
            try:
                same_corpus = self.corpus.only(stored_splits)
            except UserError:  # a table of those splits is gone
                continue
            if files.as_json(_describe_settings(same_corpus)) != stored_settings:
                continue
            if added := set(self.corpus.settings["splits"]) - set(stored_splits):
                self._added = self.corpus.only(sorted(added))
            self.corpus, self._folder = same_corpus, path.parent
            return

    @property
    def data_dir(self) -> str:
        """The folder of the data set, also before it exists."""
        return os.fspath(self._folder)

    def is_prepared(self) -> bool:
        """Tells whether the data set was completed; it may have lost a shard since."""
        if is_remote(self._folder):
            return (self._folder / INFO_NAME).exists()
        return self._folder.exists()

    def prepare(self, beam_options: str | None = None) -> dict[str, Any]:
        """Makes the data set, or its missing splits; returns its report.

        beam_options: of a Beam pipeline, whose workers write the shards; None: this process does.
        Raises UserError for a split without any usable clip, a full disk, or a lost shard.
        """
        with plain_disk_errors(self.data_dir, _DISK_ADVICE):
            if not self.is_prepared() or self._added or self._record_folder.exists():
                with _lock_folder(self._folder.parent):
                    self._complete(beam_options)
        splits = split_index_files.splits(self.data_dir)
        for split in splits:
            split_index_files.shard_paths(self.data_dir, split)
        report = preparation_report.read_report(self.data_dir)
        if report is None:
            raise UserError(f"{self.data_dir} has no report: {split_index_files.REMEDY}")
        if lost_splits := sorted(report["splits"].keys() - set(splits)):
            path = os.path.join(self.data_dir, split_index_files.UNIONS_NAME)
            raise UserError(
                f"{path} is missing, or lacks {', '.join(lost_splits)}: {split_index_files.REMEDY}"
            )
        return report

    def _complete(self, beam_options: str | None) -> None:
        """Does what is missing, while no other process does."""
        if self.is_prepared():  # perhaps by the process that held the lock before
            if self._added:
                self._add_splits(self._added, beam_options)
        else:
            own_folders = (self._unfinished_folder, self._record_folder)
            self._remove_leftovers(kept_folders=own_folders)
            for folder in own_folders:
                folder.mkdir(parents=True, exist_ok=True)
                for leftover in folder.glob(".*.tmp"):  # of files that were being written
                    leftover.unlink()
            self._write_splits(self.corpus, self._unfinished_folder, beam_options)
            if self._unfinished_folder != self._folder:
                self._unfinished_folder.rename(self._folder)
        self._remove_leftovers()

    def _remove_leftovers(self, kept_folders: Sequence[pathlib.Path] = ()) -> None:
        """Deletes the records of a whole data set's parts, and what other versions left."""
        for leftover in self._folder.parent.glob("incomplete.*"):
            if leftover not in kept_folders:
                remove_tree(leftover)

    def _add_splits(self, added: Corpus, beam_options: str | None) -> None:
        """Writes more splits beside the present ones."""
        former_report = preparation_report.read_report(self._folder)
        assert former_report is not None
        former_splits = former_report["settings"]["splits"]
        new_splits = [split for split in added.settings["splits"] if split not in former_splits]
        if not new_splits:  # the process that held the lock before has made them
            return
        self._record_folder.mkdir(parents=True, exist_ok=True)
        self.corpus = self.corpus.only([*former_splits, *new_splits])
        self._write_splits(added, self._folder, beam_options, former_report)

    def _write_splits(
        self,
        corpus: Corpus,
        folder: pathlib.Path,
        beam_options: str | None,
        former_report: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the splits of `corpus` into `folder`, or adds them to those of a report."""
        all_rows = corpus.rows()  # finds problems, too
        for split, rows in all_rows.items():
            if not rows:  # we say so before hours of writing other splits
                raise corpus.nothing_left(split, [])
        indices, problems = {}, {}
        for split, rows in all_rows.items():
            indices[split], problems[split] = write_split(
                corpus,
                split,
                rows,
                folder=folder,
                record_folder=self._record_folder,
                num_workers=self.num_workers,
                beam_options=beam_options,
            )
        if former_report is None:
            columns = ("index", "mid", "display_name")
            classes = zip(range(len(corpus.classes)), corpus.class_ids, corpus.classes, strict=True)
            files.write_csv(folder / split_index_files.CLASSES_NAME, columns, classes)
        else:
            stored_splits = split_index_files.stored_splits(folder)
            stored = {split: split_index_files.load_index(folder, split) for split in stored_splits}
            indices = stored | indices
        unions = {s: [n for n in names if n in indices] for s, names in corpus.unions.items()}
        if unions:
            all_unions = split_index_files.unions(folder) | unions
            files.write_json(folder / split_index_files.UNIONS_NAME, all_unions)
        report = preparation_report.describe(
            corpus,
            indices,
            problems,
            unions,
            settings=_describe_settings(self.corpus),
            num_rows={split: len(rows) for split, rows in all_rows.items()},
        )
        if former_report is None:
            preparation_report.write_report(folder, report)
            write_metadata(folder, corpus, indices)
            return
        write_metadata(folder, corpus, indices)
        # The report comes last, as it tells that the new splits are there.
        changes = {
            "settings": report["settings"],
            "splits": former_report["splits"] | report["splits"],
            "unions": split_index_files.unions(folder),
            "problems": former_report["problems"] + report["problems"],
        }
        preparation_report.write_report(folder, dict(former_report) | changes)


def _describe_settings(corpus: Corpus) -> dict[str, Any]:
    settings, rate = dict(corpus.settings), corpus.sample_rate
    return settings if rate == SAMPLE_RATE else settings | {"sample_rate": rate}


@contextlib.contextmanager
def _lock_folder(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time prepare into `folder`; a bucket has no locks."""
    if is_remote(folder):
        yield
        return
    check_writable(folder, "data_dir")
    with open(folder / ".lock", "w") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- The files of TFDS beside the shards ----------------------------------------------------------


def make_features(
    classes: Sequence[str], *, events: bool, unknown: bool = False, sample_rate: int = SAMPLE_RATE
) -> Any:
    """Makes the TFDS features of a corpus with these classes.

    events: whether it has strong labels; unknown: whether some labels are unknown.
    Serialized as flat tf.train.Example features: "id" and "audio" (little-endian int16) are bytes,
    "labels", "events/label" and "unknown_labels" int64 lists, "events/onset" and "events/offset"
    float lists. A record whose labels are all known has no "unknown_labels".
    """
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=list(classes))
    form: dict[str, Any] = {"shape": (None,), "dtype": np.int16, "encoding": "bytes"}
    audio = tfds.features.Tensor(**form)
    if sample_rate != SAMPLE_RATE:
        audio = tfds.features.Audio(sample_rate=sample_rate, **form)
    labels = tfds.features.Sequence(label)
    contents: dict[str, Any] = {"id": tfds.features.Text(), "audio": audio, "labels": labels}
    if events:
        contents["events"] = tfds.features.Sequence(
            {"onset": np.float32, "offset": np.float32, "label": label}
        )
    if unknown:
        contents["unknown_labels"] = tfds.features.Sequence(label)
    return tfds.features.FeaturesDict(contents)


def write_metadata(folder: pathlib.Path, corpus: Corpus, indices: Mapping[str, ClipIndex]) -> None:
    """Writes TFDS's files; `dataset_info.json`, which makes the folder a data set, comes last.

    TFDS writes them to a temporary folder: it knows no s3://, and its files are not whole at once.
    """
    tensorflow_quietly()  # before TFDS imports it
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_is_no_deprecation)  # of what TFDS itself uses
    with tempfile.TemporaryDirectory(prefix="psl_jax-") as temporary:
        local = pathlib.Path(temporary)
        template = tfds.core.ShardedFileTemplate(
            dataset_name=corpus.name, data_dir=temporary, filetype_suffix="tfrecord"
        )
        infos = []
        for split, index in indices.items():
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=index.shard_sizes.tolist(),
                    num_bytes=0 if index.record_bytes is None else int(index.record_bytes.sum()),
                    filename_template=template.replace(split=split),
                )
            )
            count = len(index.shard_sizes)
            for number in range(count):  # TFDS looks for their names only
                make_shard_path(local, corpus.name, split=split, number=number, count=count).touch()
        shards = set(local.iterdir())
        tfds.folder_dataset.write_metadata(
            data_dir=temporary,
            features=make_features(
                corpus.classes,
                events=corpus.has_events,
                sample_rate=corpus.sample_rate,
                unknown=any(index.has_unknown for index in indices.values()),
            ),
            split_infos=infos,
            filename_template=template,
            check_data=False,
            description=f"{corpus.name}: clips at {corpus.sample_rate // 1000} kHz with weak "
            "labels; made by psl_jax.",
            disable_shuffling=True,
        )
        metadata_files = set(local.iterdir()) - shards
        for path in sorted(metadata_files, key=lambda path: path.name == INFO_NAME):
            files.copy(path, folder / path.name)


def _is_no_deprecation(record: logging.LogRecord) -> bool:
    return ".dtype` is deprecated" not in record.getMessage()
