"""Reads and writes PretrainedSED's files: HDF5 with logits of frames.

A file holds `filenames` [clips] and `strong_logits` [clips, classes, frames] with a frame every 40
ms (float16, 447 classes and 250 frames as published). A segment gets the mean (or maximum) of the
probabilities of the frames whose middle lies in it. Frames past the clip's end do not count: files
pad short clips.

The export writes float32. In float16, logits of 8 to 16 have steps of 0.008, so that an import of
the export would not give the same labels.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file
from psl_jax.label_files.label_file import Block, LabelFile, Options, ReadRequest
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime import files
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
    stored_classes = file.attrs.get(label_file.CLASSES_ATTRIBUTE)
    classes = label_file.name_classes(path, options, stored_classes, all_logits.shape[1])
    middles = _compute_middles(all_logits.shape[2])
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
                if options.pool == "max":
                    pooled.append(frames[:, :, numbers].max(axis=2, where=is_used, initial=0))
                else:
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


def _compute_middles(num_frames: int) -> np.ndarray:
    """Computes the middles of frames in samples: int64 [num_frames]."""
    return (2 * np.arange(num_frames) + 1) * round(FRAME_SECONDS * SAMPLE_RATE) // 2


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes each segment's label into its frames, the last label up to the longest clip's end.

    Raises UserError for segments that overlap: a frame would have two labels.
    """
    import h5py

    index, segmentation = labels.index, options.segmentation
    if segmentation.hop_samples != segmentation.segment_samples:
        raise UserError(f"{path}: frames have one label each, and these segments overlap")
    max_seconds = max(index.clip_samples / SAMPLE_RATE, labels.num_segments * segmentation.seconds)
    num_frames = int(np.ceil(max_seconds / FRAME_SECONDS - 1e-6))
    segment_of_frame = _compute_middles(num_frames) // segmentation.segment_samples
    with files.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        shape = (len(index), index.num_classes, num_frames)
        logits = file.create_dataset(
            "strong_logits", shape, "f4", chunks=(1, *shape[1:]), compression="gzip"
        )
        file.create_dataset("filenames", data=index.ids.tolist(), dtype=h5py.string_dtype())
        if index.classes != audioset_classes():
            file.attrs[label_file.CLASSES_ATTRIBUTE] = list(index.classes)
        for clip, clip_labels in enumerate(label_file.read_clips(labels)):
            frame_values = clip_labels[np.minimum(segment_of_frame, len(clip_labels) - 1)].T
            logits[clip] = label_file.to_file_values(frame_values, options)
    return [path]
