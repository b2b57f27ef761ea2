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
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, ReadRequest
from psl_jax.networks import class_lists
from psl_jax.networks.class_lists import audioset_classes
from psl_jax.runtime import files
from psl_jax.runtime.disk_errors import plain_disk_errors
from psl_jax.runtime.errors import UserError

FRAME_SECONDS = 0.04
_CLASSES = "classes"
_BLOCK_CLIPS = 16  # of 447 x 250: 7 MB


class FrameFile:
    """PretrainedSED's HDF5 file, opened for reading."""

    has_views, may_pad = False, True

    def __init__(self, path: pathlib.Path, options: Options):
        self.path, self.options = path, options
        with label_file.plain_errors(path, "h5py"):
            import h5py

            self._file = h5py.File(path, "r")
            self._logits, self._names = self._file["strong_logits"], self._file["filenames"]
            stored_classes = self._file.attrs.get(_CLASSES)
            shape, num_segments = self._logits.shape, len(self._names)
        if len(shape) != 3 or num_segments != shape[0]:
            raise UserError(
                f"{path}: strong_logits {list(shape)} and {num_segments} filenames, expected "
                "[clips, classes, frames] and as many names as clips"
            )
        names = None if stored_classes is None else [str(name) for name in stored_classes]
        self.classes = class_lists.name_columns(
            options.classes or names, shape[1], path, GIVE_CLASSES
        )
        self._frames = _find_segment_frames(shape[2], options)
        if not all(map(len, self._frames)):
            raise UserError(
                f"segments of {options.segmentation.seconds:g} s are shorter than the frames of "
                f"{path}, of {FRAME_SECONDS} s; give longer --segment_seconds"
            )

    def read_blocks(self, request: ReadRequest) -> Iterator[Block]:
        num_segments = len(self._frames)
        for first in range(0, len(self._names), _BLOCK_CLIPS):
            clips = slice(first, first + _BLOCK_CLIPS)
            with label_file.plain_errors(self.path, "h5py"):
                names = [
                    name.decode() if isinstance(name, bytes) else str(name)
                    for name in self._names[clips]
                ]
                logits = self._logits[clips]
            where = f"{self.path}, clips from {names[0]}"
            probabilities = label_file.to_probabilities(logits, self.options.logits, where)
            ends = request.num_samples(names)
            values = np.stack(
                [self._pool_frames(probabilities, frames, ends) for frames in self._frames], axis=1
            )  # [clips, segments, classes]
            yield Block(
                [name for name in names for _ in range(num_segments)],
                values.reshape(-1, values.shape[2]),
                np.tile(np.arange(num_segments), len(names)),
            )

    def _pool_frames(
        self, probabilities: np.ndarray, frames: np.ndarray, ends: np.ndarray
    ) -> np.ndarray:
        """Pools those of some frames that lie inside the clips: [clips, classes].

        Args:
          probabilities: probabilities [clips, classes, frames].
          frames: numbers of the frames of a segment.
          ends: lengths of the clips in samples [clips]. The values of a segment past its clip's end
            may be anything: nobody reads them.
        """
        is_inside = _compute_middles(probabilities.shape[2])[frames] < ends[:, None]
        is_inside[:, 0] = True  # a clip shorter than half a frame
        frame_values, is_inside = probabilities[:, :, frames], is_inside[:, None]
        if self.options.pool == "max":
            return np.asarray(frame_values.max(axis=2, where=is_inside, initial=0))
        return np.asarray(frame_values.mean(axis=2, where=is_inside))


def _find_segment_frames(num_frames: int, options: Options) -> list[np.ndarray]:
    """Finds the frames of each segment that begins before the file's last frame ends."""
    segmentation = options.segmentation
    num_segments = int(segmentation.count_segments(round(num_frames * FRAME_SECONDS * SAMPLE_RATE)))
    middles = _compute_middles(num_frames)
    starts = np.arange(num_segments) * segmentation.hop_samples
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
    with label_file.plain_errors(path, "h5py"):
        import h5py
    index, segmentation = labels.index, options.segmentation
    if segmentation.hop_samples != segmentation.segment_samples:
        raise UserError(f"{path}: frames have one label each, and these segments overlap")
    max_seconds = max(index.clip_samples / SAMPLE_RATE, labels.num_segments * segmentation.seconds)
    num_frames = int(np.ceil(max_seconds / FRAME_SECONDS - 1e-6))
    segment_of_frame = _compute_middles(num_frames) // segmentation.segment_samples
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        shape = (len(index), index.num_classes, num_frames)
        logits = file.create_dataset(
            "strong_logits", shape, "f4", chunks=(1, *shape[1:]), compression="gzip"
        )
        names = index.ids.tolist()
        file.create_dataset("filenames", data=names, dtype=h5py.string_dtype())
        if index.classes != audioset_classes():
            file.attrs[_CLASSES] = list(index.classes)
        for shard, first_clip in enumerate(index.shard_offsets[:-1]):
            _, values, counts = labels.read_shard(shard)
            for row, (clip_values, count) in enumerate(zip(values, counts, strict=True)):
                frame_values = (
                    clip_values[np.minimum(segment_of_frame, count - 1)].astype(np.float32).T
                )
                logits[first_clip + row] = (
                    label_file.logit(frame_values) if options.logits else frame_values
                )
    return [path]
