"""Reads files of logits: EfficientAT's of clips, and PretrainedSED's of frames.

EfficientAT's are an array [clips, classes], and an index that gives the row of each file name. The
index is a pickle of {name: row}, as published; we run none of its code. The classes are AudioSet's,
or those that the user gives.

PretrainedSED's are HDF5 with `filenames` [clips] and `strong_logits` [clips, classes, frames], a
frame every 40 ms (float16, 447 classes and 250 frames as published). A segment gets the mean of the
probabilities of the frames whose middle lies in it. Frames past the clip's end do not count: files
pad short clips.
"""

import pathlib
import pickle
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, LabelFile, Options, ReadRequest
from psl_jax.runtime.errors import UserError

FRAME_SECONDS = 0.04  # of PretrainedSED
_BLOCK_CLIPS = 16  # of 447 x 250: 7 MB


def open_efficientat(path: pathlib.Path, options: Options) -> LabelFile:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive (.npz), expected one array (.npy)")
    if values.ndim != 2 or values.dtype.kind != "f":
        raise UserError(
            f"{path} holds {values.dtype} {list(values.shape)}, expected floats [clips, classes]"
        )
    classes = label_file.name_classes(path, options, values.shape[1])
    index_path = pathlib.Path(options.index or path.with_suffix(".pkl"))
    rows_by_name = _read_index(index_path, len(values))

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        names = list(rows_by_name)
        for start in range(0, len(names), label_file.BLOCK_ROWS):
            block_names = names[start : start + label_file.BLOCK_ROWS]
            rows = [rows_by_name[name] for name in block_names]
            where = f"{path}, row {rows[0]} and more"
            probabilities = label_file.to_probabilities(values[rows], options.logits, where)
            yield Block(block_names, probabilities)

    return LabelFile([path, index_path], classes, read_blocks)


class _NoCode(pickle.Unpickler):
    """Reads numbers, texts and containers, and refuses a pickle that names code to run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _read_index(path: pathlib.Path, num_rows: int) -> dict[str, int]:
    """Reads the row of each name. Raises UserError for another form, or rows that do not exist."""
    try:
        with open(path, "rb") as file:
            index = _NoCode(file).load()
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no index of file names; give it with --index=FILE (a pickle of "
            "{name: row})"
        ) from None
    except Exception as error:  # pickle promises no other: files of another kind raise anything
        raise UserError(f"{path} is no index of file names: {error}") from error
    if not isinstance(index, dict) or not all(
        isinstance(name, str) and type(row) is int and 0 <= row < num_rows
        for name, row in index.items()
    ):
        raise UserError(
            f"{path} is no index of file names: expected a row from 0 to {num_rows - 1} for each"
        )
    return dict(sorted(index.items(), key=lambda item: item[1]))


def open_pretrainedsed(path: pathlib.Path, options: Options) -> LabelFile:
    import h5py

    file = h5py.File(path, "r")
    all_logits, all_names = file["strong_logits"], file["filenames"]
    if all_logits.ndim != 3 or len(all_names) != len(all_logits):
        raise UserError(
            f"{path}: strong_logits {list(all_logits.shape)} and {len(all_names)} filenames, "
            "expected [clips, classes, frames] and as many names as clips"
        )
    classes = label_file.name_classes(path, options, all_logits.shape[1])
    # Of the frames, in samples.
    middles = (2 * np.arange(all_logits.shape[2]) + 1) * round(FRAME_SECONDS * SAMPLE_RATE) // 2
    segment_frames = _find_segment_frames(middles, options)
    if not all(map(len, segment_frames)):
        raise UserError(
            f"segments of {options.segmentation.seconds:g} s are shorter than the frames of "
            f"{path}, of {FRAME_SECONDS} s; give longer --segment_seconds"
        )

    def read_blocks(request: ReadRequest) -> Iterator[Block]:
        for first in range(0, len(all_names), _BLOCK_CLIPS):
            clips = slice(first, first + _BLOCK_CLIPS)
            names = [
                name.decode() if isinstance(name, bytes) else str(name) for name in all_names[clips]
            ]
            where = f"{path}, clips from {names[0]}"
            frames = label_file.to_probabilities(all_logits[clips], options.logits, where)
            is_inside = middles < request.num_samples(names)[:, None]  # [clips, frames]
            pooled = []  # of each segment [clips, classes]
            for numbers in segment_frames:
                is_used = is_inside[:, None, numbers]
                # The first one counts in any case: a clip may be shorter than half a frame, and
                # nobody reads segments past its end.
                is_used[..., 0] = True
                pooled.append(frames[:, :, numbers].mean(axis=2, where=is_used))
            values = np.stack(pooled, axis=1)  # [clips, segments, classes]
            num_segments = len(segment_frames)
            yield Block(
                [name for name in names for _ in range(num_segments)],
                values.reshape(-1, values.shape[2]),
                np.tile(np.arange(num_segments), len(names)),
            )

    return LabelFile([path], classes, read_blocks, may_pad=True)


def _find_segment_frames(middles: np.ndarray, options: Options) -> list[np.ndarray]:
    """Finds the frames of each segment that begins before the last frame ends."""
    segmentation = options.segmentation
    num_samples = round(len(middles) * FRAME_SECONDS * SAMPLE_RATE)
    starts = np.arange(int(segmentation.count_segments(num_samples))) * segmentation.hop_samples
    return [
        np.flatnonzero((middles >= start) & (middles < start + segmentation.segment_samples))
        for start in starts
    ]
