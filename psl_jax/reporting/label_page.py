"""A page to judge soft labels by ear before anything is trained on them.

For some clips: their sound, the log-mel spectrogram, the weak labels, the soft labels over time
and, where they are known, the true events.
"""

import pathlib

import numpy as np

from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.soft_labels import SoftLabels
from psl_jax.data.source import Source
from psl_jax.reporting import audio_examples, result_tables, run_page
from psl_jax.runtime import progress

# How clips are chosen, in words.
RULES = {
    "classes": "classes take turns, in an order drawn with seed {seed}, and each gives one of its "
    "clips that is not chosen yet",
    "even": "evenly over the split, in its order",
}

_MOST_CLASSES = 8  # shown of a clip, and more only where it has more labels


def write_page(
    path: pathlib.Path, source: Source, labels: SoftLabels, clips: np.ndarray, rule: str
) -> pathlib.Path:
    """Writes one self-contained page of `clips` [n] (numbers, ascending) and returns its path.

    rule: how they were chosen, in words.
    """
    described = []
    read = progress.track(source.read_whole(clips), len(clips), "clip", "draw")
    for clip, audio in zip(clips.tolist(), read, strict=True):
        soft = audio_examples.make_soft_output(labels, "soft label", clip, len(audio))
        description = audio_examples.describe_clip(
            clip, labels.index, audio, [soft], most_classes=_MOST_CLASSES, least_value=0.0
        )
        media = audio_examples.make_media(audio)
        described.append(description | media | {"classes_left_out": 0})  # it is so of all clips
    context = {
        "title": f"Soft labels of {labels.index.split}",
        "tiles": _tiles(labels, clips),
        "clips": described,
        "clip_ticks": audio_examples.ticks,
        "rule": rule,
        "where": labels.directory.name,
        "origin": labels.manifest.get("origin", {}).get("kind", "made by a teacher"),
        "digest": labels.manifest.get("teacher_digest", ""),
    }
    return run_page.render("labels.html.jinja", path, context)


def choose(index: ClipIndex, samples: int, seed: int, how: str) -> np.ndarray:
    """Chooses up to `samples` clips by one of RULES: their numbers, ascending."""
    samples = min(samples, len(index))
    if how == "even":
        return audio_examples.choose_evenly(len(index), samples)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(index))
    rank = np.empty(len(index), np.int64)
    rank[shuffled] = np.arange(len(index))
    owner = np.repeat(np.arange(len(index)), np.diff(index.label_offsets))
    order = np.lexsort((rank[owner], index.label_values))
    ends = np.cumsum(np.bincount(index.label_values, minlength=index.num_classes))
    queues = [list(part) for part in np.split(owner[order], ends[:-1])]
    turns = [queues[k] for k in rng.permutation(index.num_classes)]
    chosen: set[int] = set()
    while len(chosen) < samples and any(turns):
        for queue in turns:
            while queue and queue[0] in chosen:
                queue.pop(0)
            if queue and len(chosen) < samples:
                chosen.add(int(queue.pop(0)))
    for clip in shuffled:  # clips without labels come last
        if len(chosen) == samples:
            break
        chosen.add(int(clip))
    return np.array(sorted(chosen), np.int64)


def _tiles(labels: SoftLabels, clips: np.ndarray) -> list[tuple[str, str, str, str]]:
    index, segmentation = labels.index, labels.segmentation
    hop = segmentation.hop_seconds
    every = "" if hop is None else f"one every {hop:g} s"
    return [
        ("clips here", result_tables.count(len(clips)), "", f"of {len(index):,} in {index.split}"),
        (
            "classes",
            result_tables.count(index.num_classes),
            "",
            f"up to {_MOST_CLASSES} shown of a clip",
        ),
        ("segments of", f"{segmentation.seconds:g}", "s", every),
    ]
