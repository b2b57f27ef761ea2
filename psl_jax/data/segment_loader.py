"""The segments of a split, numbered clip after clip, and batches of them. Pure NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from psl_jax.audio.segments import REFLECTED_SAMPLES, Segmentation, reverse
from psl_jax.data.clip_index import list_places
from psl_jax.data.corrections import Corrections, SegmentValues
from psl_jax.data.label_manifest import WEAK
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source

# audio        int16 [B, segment_samples], at 32 kHz [B, segment_samples, 2] (audio/segments.py),
#              after the clip's end its reflection and zeros
# num_samples  int32 [B], samples of the segment that lie inside the clip
# labels       float32 [B, classes], 0 to 1 or UNKNOWN
# weight       float32 [B], 1, or 0 for the rows that fill up the last batch
# clip         int32 [B], number in the index, -1 for filling
# segment      int32 [B], number in the clip
Batch = dict[str, np.ndarray]
# As `Source.read`: clips, starts, counts, rows.
Reader = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


class Segments:
    """The segments of `source`: number 0 is the first clip's first. Threads may load at once.

    The labels are those of `mix_labels`, and the clip's weak labels where there are no
    `soft_labels`; where people decided, theirs.
    """

    def __init__(
        self,
        source: Source,
        segmentation: Segmentation,
        soft_labels: SoftLabels | None = None,
        alpha: float = 1.0,
        corrections: Corrections | None = None,
    ):
        self.source, self.segmentation = source, segmentation
        self.soft_labels, self.alpha = soft_labels if alpha else None, alpha
        self.firsts = segmentation.number_segments(source.index.num_samples)
        self._decided: SegmentValues | None = None
        if corrections is not None:
            self._decided = corrections.find_values(source.index, segmentation)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def has_unknown(self) -> bool:
        """Whether labels of a batch may be UNKNOWN: weak ones, and where people are unsure."""
        are_weak = self.soft_labels is None or WEAK in self.soft_labels.manifest
        is_unsure = self._decided is not None and bool(np.isnan(self._decided.values).any())
        return is_unsure or (are_weak and self.source.index.has_unknown)

    def of_clips(self, clips: np.ndarray) -> np.ndarray:
        """Numbers of all segments of `clips` [n], clip after clip: int64."""
        return list_places(self.firsts[clips], np.diff(self.firsts)[clips])[1]

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The clip of each segment, and its number in the clip: int64 [n] each."""
        clips = np.searchsorted(self.firsts, numbers, side="right") - 1
        return clips, numbers - self.firsts[clips]

    def load(self, numbers: np.ndarray, size: int = 0, read: Reader | None = None) -> Batch:
        """The batch of the segments `numbers`, filled up to `size` rows. Raises UserError."""
        batch, segment_samples = self.describe(numbers), self.segmentation.segment_samples
        clips, counts = batch["clip"], batch["num_samples"]
        # New memory each time: devices may still be reading the last batch.
        audio = np.empty((len(numbers), segment_samples, *self.source.tick_shape), np.int16)
        starts = batch["segment"].astype(np.int64) * self.segmentation.hop_samples
        (read or self.source.read)(clips, starts, counts, audio)
        for row in np.flatnonzero(counts < segment_samples):
            audio[row, counts[row] :] = 0
            reflect_end(audio[row], int(counts[row]))
        batch = {"audio": audio} | batch
        return batch if size <= len(numbers) else _fill_up(batch, size)

    def describe(self, numbers: np.ndarray) -> Batch:
        """The batch of the segments `numbers` [n] without its audio."""
        clips, segments = self.places(numbers)
        lengths = self.source.index.num_samples[clips]
        labels = self._labels(clips, segments)
        if self._decided is not None:
            self._decided.put(labels, numbers)
        return {
            "num_samples": self.segmentation.count_valid_samples(lengths, segments),
            "labels": labels,
            "weight": np.ones(len(numbers), np.float32),
            "clip": clips.astype(np.int32),
            "segment": segments.astype(np.int32),
        }

    def _labels(self, clips: np.ndarray, segments: np.ndarray) -> np.ndarray:
        index = self.source.index
        if self.soft_labels is None:
            return index.weak_labels(clips)
        labels = self.soft_labels.of_segments(clips, segments).astype(np.float32)
        if WEAK in self.soft_labels.manifest:  # the weak ones of then: people may know more now
            labels = np.where(labels < 0, index.weak_labels(clips), labels)
        if self.alpha < 1:
            labels = mix_labels(labels, index.weak_labels(clips), self.alpha, index.has_unknown)
        return labels


def mix_labels(soft: Any, weak: Any, alpha: float, has_unknown: bool = False) -> Any:
    """What is trained on, [batch, classes]: BCE is linear in it. Soft labels stand for unknown
    ones.
    """
    if has_unknown:
        is_known = (weak >= 0).astype(soft.dtype)
        weak = is_known * weak + (1 - is_known) * soft
    return alpha * soft + (1 - alpha) * weak


def _fill_up(batch: Batch, size: int) -> Batch:
    """The batch with rows of weight 0 up to `size`."""
    count, samples = batch["audio"].shape[:2]
    # Silence of full length: a mean over no samples would be NaN, which no weight removes.
    values = {"num_samples": samples, "clip": -1}
    return {
        name: np.concatenate(
            [rows, np.full((size - count, *rows.shape[1:]), values.get(name, 0), rows.dtype)]
        )
        for name, rows in batch.items()
    }


def reflect_end(row: np.ndarray, samples: int) -> None:
    """Reflects a clip's end after its `samples`, as the front end does; zeros would be a click."""
    length = min(REFLECTED_SAMPLES, len(row) - samples, samples - 2)
    if length > 0:
        row[samples : samples + length] = reverse(row[samples - 1 - length : samples - 1])
