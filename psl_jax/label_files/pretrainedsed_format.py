"""PretrainedSED's files: HDF5 with logits of frames.

`filenames` [clips] and `strong_logits` [clips, classes, frames], one frame each 40 ms (float16, 447
classes and 250 frames as published). A segment has the mean (or maximum) of the probabilities of
the frames whose middle lies in it, but for those past the clip's end: files pad short clips.

The export writes float32: float16 holds logits of 8 to 16 in steps of 0.008, and the way back would
not be equal.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import label_file, optional_imports
from psl_jax.label_files.label_file import GIVE_CLASSES, Block, Options, Wanted
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

    views, padded = False, True

    def __init__(self, path: pathlib.Path, options: Options):
        self.path, self.options = path, options
        with optional_imports.plain_errors(path, "h5py"):
            import h5py

            self._file = h5py.File(path, "r")
            self._logits, self._names = self._file["strong_logits"], self._file["filenames"]
            stored = self._file.attrs.get(_CLASSES)
            shape, count = self._logits.shape, len(self._names)
        if len(shape) != 3 or count != shape[0]:
            raise UserError(
                f"{path}: strong_logits {list(shape)} and {count} filenames, expected "
                "[clips, classes, frames] and as many names as clips"
            )
        names = None if stored is None else [str(name) for name in stored]
        self.classes = class_lists.name_columns(
            options.classes or names, shape[1], path, GIVE_CLASSES
        )
        self._frames = _frames_of_segments(shape[2], options)
        if not all(map(len, self._frames)):
            raise UserError(
                f"segments of {options.segmentation.seconds:g} s are shorter than the frames of "
                f"{path}, of {FRAME_SECONDS} s; give longer --segment_seconds"
            )

    def blocks(self, wanted: Wanted) -> Iterator[Block]:
        count = len(self._frames)
        for first in range(0, len(self._names), _BLOCK_CLIPS):
            clips = slice(first, first + _BLOCK_CLIPS)
            with optional_imports.plain_errors(self.path, "h5py"):
                names = [
                    name.decode() if isinstance(name, bytes) else str(name)
                    for name in self._names[clips]
                ]
                logits = self._logits[clips]
            where = f"{self.path}, clips from {names[0]}"
            p = label_file.probabilities(logits, self.options.logits, where)
            ends = wanted.num_samples(names)
            values = np.stack(
                [self._pooled(p, frames, ends) for frames in self._frames], axis=1
            )  # [clips, segments, classes]
            yield Block(
                [name for name in names for _ in range(count)],
                values.reshape(-1, values.shape[2]),
                np.tile(np.arange(count), len(names)),
            )

    def _pooled(self, p: np.ndarray, frames: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Of some frames of p [clips, classes, frames] those inside the clips, as one value.

        ends: lengths of the clips in samples [clips]. Of a segment past its clip's end, which has
        no place, anything.
        """
        inside = _middles(p.shape[2])[frames] < ends[:, None]
        inside[:, 0] = True  # a clip shorter than half a frame
        part, inside = p[:, :, frames], inside[:, None]
        if self.options.pool == "max":
            return part.max(axis=2, where=inside, initial=0)
        return part.mean(axis=2, where=inside)


def _frames_of_segments(frames: int, options: Options) -> list[np.ndarray]:
    """The frames of each segment that the file reaches into."""
    segmentation = options.segmentation
    count = int(segmentation.counts(round(frames * FRAME_SECONDS * SAMPLE_RATE)))
    middles = _middles(frames)
    starts = np.arange(count) * segmentation.hop_samples
    return [
        np.flatnonzero((middles >= start) & (middles < start + segmentation.segment_samples))
        for start in starts
    ]


def _middles(frames: int) -> np.ndarray:
    """Middles of frames, in samples: int64 [frames]."""
    return (2 * np.arange(frames) + 1) * round(FRAME_SECONDS * SAMPLE_RATE) // 2


def write(path: pathlib.Path, labels: SoftLabels, options: Options) -> list[pathlib.Path]:
    """Writes each segment's label into its frames; the last one's to the end of the longest clip.

    Raises UserError for segments that overlap: a frame would have two labels.
    """
    with optional_imports.plain_errors(path, "h5py"):
        import h5py
    index, segmentation = labels.index, options.segmentation
    if segmentation.hop_samples != segmentation.segment_samples:
        raise UserError(f"{path}: frames have one label each, and these segments overlap")
    seconds = max(index.clip_samples / SAMPLE_RATE, labels.num_segments * segmentation.seconds)
    frames = int(np.ceil(seconds / FRAME_SECONDS - 1e-6))
    segment = _middles(frames) // segmentation.segment_samples
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        plain_disk_errors(path, "Run the same command again."),
        files.atomic_path(path) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        shape = (len(index), index.num_classes, frames)
        logits = file.create_dataset(
            "strong_logits", shape, "f4", chunks=(1, *shape[1:]), compression="gzip"
        )
        names = index.ids.tolist()
        file.create_dataset("filenames", data=names, dtype=h5py.string_dtype())
        if index.classes != audioset_classes():
            file.attrs[_CLASSES] = list(index.classes)
        for shard, low in enumerate(index.shard_offsets[:-1]):
            _, values, counts = labels.read_shard(shard)
            for row, (one, count) in enumerate(zip(values, counts, strict=True)):
                framed = one[np.minimum(segment, count - 1)].astype(np.float32).T
                logits[low + row] = label_file.logit(framed) if options.logits else framed
    return [path]
