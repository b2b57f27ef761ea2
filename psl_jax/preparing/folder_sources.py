"""Splits of a folder of recordings held in memory, without TFRecords between."""

import functools
from collections.abc import Iterator

import numpy as np

from psl_jax.corpora import clip_rows, labels_folder
from psl_jax.data.index_files import build_index
from psl_jax.data.memory_source import MemorySource
from psl_jax.data.source import Source
from psl_jax.runtime import progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.ordered_map import ordered_map

CLIPS_PER_SHARD = 256  # soft labels of packed data are written in such parts


def folder_sources(
    folder: str, max_seconds: float, separator: str, num_workers: int | None = None
) -> Iterator[tuple[str, Source]]:
    """(split, source) of each CSV of a folder; problems with files are printed, the rest goes on.

    Memory: the audio of one split. Raises UserError for CSVs of another form or nothing usable.
    """
    found = labels_folder.read_folder(folder, separator)
    load = functools.partial(clip_rows.load_clip, max_seconds=max_seconds)
    for split, rows in found.rows.items():
        described, audio = [], []
        loaded = ordered_map(load, rows, num_workers)
        for item in progress.track(loaded, len(rows), "clips", f"decode {split}"):
            for problem in item.problems:
                print(f"{problem.file}: {problem.kind} ({problem.detail})")
            if item.clip is not None:
                clip = item.clip
                described.append(clip.description)
                audio.append(clip.audio)
        if not audio:
            raise UserError(f"no clip of split {split!r} in {folder} is usable")
        sizes = [len(part) for part in _parts(len(audio))]
        yield split, MemorySource(build_index(split, found.classes, described, sizes), audio)


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), -(-count // CLIPS_PER_SHARD))
