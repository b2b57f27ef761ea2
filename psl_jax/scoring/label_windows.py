"""What a teacher hears at a time, and the labels of segments as means of what it says of that."""

import numpy as np

from psl_jax.audio.overlap_means import bounds, means
from psl_jax.audio.segments import Segmentation
from psl_jax.data.label_manifest import LabelRule
from psl_jax.model.frontend import num_frames
from psl_jax.model.mobilenetv2 import FRAME_SAMPLES, output_frames
from psl_jax.runtime.errors import UserError


def check(segmentation: Segmentation, rule: LabelRule) -> None:
    """Raises UserError for a rule that makes no labels of such segments."""
    if not rule.heard:
        return
    if rule.heard < segmentation.seconds:
        raise UserError(
            f"relabel.heard is {rule.heard:g} s, less than a segment of {segmentation.seconds:g} s"
        )
    if rule.count_padding:
        raise UserError(
            f"relabel.heard is {rule.heard:g} and relabel.count_padding is true: the frames of "
            "padding lie in no segment and cannot count. Leave one of them out"
        )


def are_heard(rule: LabelRule) -> bool:
    """Whether labels are means of windows or of their frames, not each segment's own scores."""
    return rule.heard > 0 or rule.overlap > 0


def windows_of(segmentation: Segmentation, rule: LabelRule, longest: float) -> Segmentation:
    """What the teacher hears at a time: windows of which each covers `rule.overlap` of the next.

    longest: seconds of the longest clip; to hear more at a time would be to hear silence.
    """
    if not are_heard(rule):
        return segmentation
    seconds = max(min(rule.heard, longest), segmentation.seconds)
    # What is a segment at a clip's end must be heard, however short it is.
    shortest = min(
        segmentation.shortest_seconds,
        segmentation.seconds,
        segmentation.hop_seconds or segmentation.seconds,
    )
    return Segmentation(seconds, (1 - rule.overlap) * seconds, shortest)


def labels_of(
    scores: np.ndarray, windows: Segmentation, segmentation: Segmentation, num_samples: np.ndarray
) -> np.ndarray:
    """Labels of segments as the mean of the scores of what was heard, weighted by overlap.

    A window, or a frame of it, weighs as many samples as it shares with the segment, padding left
    out. Frames lie about the multiples of 0.32 s, the first and last of a window up to its ends.

    Args:
      scores: float32 [clips, windows, classes] or [clips, windows, frames, classes]; what lies past
        a clip's last window is not used.
      num_samples: [clips].

    Returns float32 [clips, segments, classes], zeros past a clip's last segment.
    """
    most = segmentation.counts(num_samples).max(initial=1)
    labels = np.zeros((len(scores), most, scores.shape[-1]), np.float32)
    for length in np.unique(num_samples).tolist():
        clips = np.flatnonzero(num_samples == length)
        begin, end = bounds(segmentation, int(segmentation.counts(length)), length)
        first, last = bounds(windows, int(windows.counts(length)), length)
        parts = scores[clips, : len(first)]
        if scores.ndim == 4:
            frames = output_frames(num_frames(last - first))
            parts = parts[:, np.arange(scores.shape[2]) < frames[:, None]]
            edges = [_frame_bounds(*one) for one in zip(first, last, frames, strict=True)]
            first, last = np.concatenate(edges, axis=1)
        labels[clips, : len(begin)] = means(parts, first, last, begin, end)
    return labels


def _frame_bounds(first: int, last: int, frames: int) -> np.ndarray:
    """The same of the frames of a window from `first` to `last`: [2, frames]."""
    edges = first + FRAME_SAMPLES * np.arange(frames + 1) - FRAME_SAMPLES // 2
    edges[0], edges[-1] = first, last
    return np.stack([edges[:-1], edges[1:]])
