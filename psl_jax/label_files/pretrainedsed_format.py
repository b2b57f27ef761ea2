"""Reads PretrainedSED's files: HDF5 with logits of frames.

A file holds `filenames` [clips] and `strong_logits` [clips, classes, frames] with a frame every 40
ms (float16, 447 classes and 250 frames as published). A segment gets the mean of the probabilities
of the frames whose middle lies in it. Frames past the clip's end do not count: files pad short
clips.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, LabelFile, Options, ReadRequest
from psl_jax.runtime.errors import UserError

FRAME_SECONDS = 0.04
_BLOCK_CLIPS = 16  # of 447 x 250: 7 MB


def open_file(path: pathlib.Path, options: Options) -> LabelFile:
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
