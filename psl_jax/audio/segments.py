"""Where a clip is cut: the one owner of the sample rate and of segment boundaries.

Pure NumPy: used by the input pipeline, the relabeling, the evaluation and the tagger alike.
"""

import dataclasses

import numpy as np

from psl_jax.runtime.errors import UserError

SAMPLE_RATE = 16_000

# A remainder shorter than this at the end of a clip makes no segment of its own: nothing can be
# heard in a few hundredths of a second of audio followed by padding.
MIN_SEGMENT_SECONDS = 0.5


# As far as a frame of the front end reaches past the end of the audio: half its window.
REFLECTED_SAMPLES = 256

MIN_HOP_SECONDS = 0.05  # a smaller hop is a slip: it makes hundreds of segments of a clip


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Cuts clips into segments of `seconds`, one every `hop_seconds` (default: end to end).

    shortest_seconds: what a remainder at a clip's end needs to be a segment of its own; with 0 one
    sample is enough, as in the published code.
    """

    seconds: float
    hop_seconds: float | None = None
    shortest_seconds: float = MIN_SEGMENT_SECONDS

    def __post_init__(self) -> None:
        if self.seconds <= 0 or (self.hop_seconds is not None and self.hop_seconds <= 0):
            raise ValueError(f"segment and hop must be positive, got {self}")

    @property
    def segment_samples(self) -> int:
        return round(self.seconds * SAMPLE_RATE)

    @property
    def hop_samples(self) -> int:
        return round((self.hop_seconds or self.seconds) * SAMPLE_RATE)

    def counts(self, num_samples: np.ndarray | int) -> np.ndarray:
        """Segments in clips of `num_samples` [...] samples: int32 [...], at least 1 each.

        The last segment may be partly padding; a remainder under `shortest_seconds` is left out.
        """
        segment, hop = self.segment_samples, self.hop_samples
        shortest = min(max(round(self.shortest_seconds * SAMPLE_RATE), 1), segment, hop)
        # What a segment adds to those before it begins `overlap` after the segment does.
        overlap = max(segment - hop, 0)
        more = (np.asarray(num_samples) - overlap - shortest) // hop
        return np.maximum(1 + more, 1).astype(np.int32)

    def valid_samples(self, num_samples: np.ndarray, segment: np.ndarray) -> np.ndarray:
        """Samples of segment number `segment` that lie inside a clip of `num_samples`: int32."""
        left = np.asarray(num_samples) - np.asarray(segment) * self.hop_samples
        return np.clip(left, 0, self.segment_samples).astype(np.int32)

    def times(self, segment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Onset and offset of segments, in seconds from the start of the clip."""
        onset = np.asarray(segment) * (self.hop_samples / SAMPLE_RATE)
        return onset, onset + self.segment_samples / SAMPLE_RATE


def check_hop(segmentation: Segmentation, setting: str) -> None:
    """Raises UserError, naming the setting, where segments leave gaps or hardly move on."""
    hop, seconds = segmentation.hop_seconds, segmentation.seconds
    if hop is not None and not min(MIN_HOP_SECONDS, seconds) <= hop <= seconds:
        raise UserError(
            f"{setting} is {hop:g}: expected {MIN_HOP_SECONDS:g} to {seconds:g} s, the length of a "
            "segment, or 0 for segments end to end; what lies in gaps would not be heard"
        )
