"""Packs data into plain arrays, from which an experiment runs where only JAX is installed.

    python -m psl_jax.pack --source_dir FOLDER --out DIR    # as for configs/own_data.py
    python -m psl_jax.pack --data_dir PREPARED --out DIR    # needs TensorFlow

    python -m psl_jax.main --config configs/own_data.py --config.data.corpus=packed \
        --config.data.data_dir=DIR

writes DIR/SPLIT.npz for each split: the audio (int16, 16 kHz) end to end, lengths, labels and
events.
"""

import functools
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from absl import flags

from psl_jax import entry, progress
from psl_jax.clips import ClipIndex
from psl_jax.errors import UserError
from psl_jax.packed import pack
from psl_jax.sampling import Window
from psl_jax.soft_labels import SoftLabels
from psl_jax.sources import LoadedWindow, Source

CLIPS_PER_SHARD = 256  # soft labels of packed data are written in such parts

_SOURCE_DIR = flags.DEFINE_string("source_dir", None, "Folder with the CSVs and the audio files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared (TFDS) data set.")
_OUT = flags.DEFINE_string("out", None, "Where to write the packed splits.", required=True)
_MAX_SECONDS = flags.DEFINE_float("max_clip_seconds", 10.0, "Longer files are cut, and reported.")
_SEPARATOR = flags.DEFINE_string("label_separator", ";", "Between the labels in the CSVs.")


class MemorySource:
    """A split whose audio is held in memory: [clips] arrays of int16 [samples]."""

    def __init__(self, index: ClipIndex, audio: list[np.ndarray]):
        self.index, self._audio = index, audio

    def read(
        self, windows: Iterable[Window], soft_labels: SoftLabels | None = None
    ) -> Iterator[LoadedWindow]:
        """See `Source.read`."""
        for window in windows:
            audio = np.zeros((len(window.clips), self.index.clip_samples), np.int16)
            for row, clip in zip(audio, window.clips, strict=True):
                row[: len(self._audio[clip])] = self._audio[clip]
            soft = None if soft_labels is None else soft_labels.gather(window.clips)
            yield LoadedWindow(window, audio, soft)


def folder_sources(
    folder: str, max_seconds: float, separator: str, num_workers: int | None = None
) -> Iterator[tuple[str, Source]]:
    """(split, source) of each CSV of a folder; problems with files are printed, the rest goes on.

    Memory: the audio of one split. Raises UserError for CSVs of another form or nothing usable.
    """
    from psl_jax.datasets import clip_rows, own_folder
    from psl_jax.datasets.index import build_index
    from psl_jax.datasets.workers import ordered_map

    found = own_folder.read_folder(folder, separator)
    load = functools.partial(clip_rows.load_clip, max_seconds=max_seconds)
    for split, rows in found.rows.items():
        described, audio = [], []
        loaded = ordered_map(load, rows, num_workers)
        for item in progress.track(loaded, len(rows), "clips", f"decode {split}"):
            for problem in item.problems:
                print(f"{problem.file}: {problem.kind} ({problem.detail})")
            if item.clip is not None:
                clip = item.clip
                described.append((clip.id, len(clip.audio), clip.labels, clip.events))
                audio.append(clip.audio)
        if not audio:
            raise UserError(f"no clip of split {split!r} in {folder} is usable")
        sizes = [len(part) for part in _parts(len(audio))]
        yield split, MemorySource(build_index(split, found.classes, described, sizes), audio)


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), -(-count // CLIPS_PER_SHARD))


def _prepared_sources(data_dir: str) -> Iterator[tuple[str, Source]]:
    from psl_jax.datasets import index
    from psl_jax.input_pipeline import TFRecordSource

    for split in index.splits(data_dir):
        yield split, TFRecordSource.open(data_dir, split)


def main(_) -> None:
    folder, prepared = _SOURCE_DIR.value, _DATA_DIR.value
    if folder and not prepared:
        sources = folder_sources(folder, _MAX_SECONDS.value, _SEPARATOR.value, os.cpu_count())
    elif prepared and not folder:
        sources = _prepared_sources(prepared)
    else:
        raise UserError("give either --source_dir or --data_dir")
    for split, source in sources:
        path = pathlib.Path(_OUT.value) / f"{split}.npz"
        pack(source, path)
        print(f"{split}: {len(source.index)} clips, {source.index.hours:.2f} h in {path}")


if __name__ == "__main__":
    entry.run(main)
