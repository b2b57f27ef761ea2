"""AudioSet's tables, written for tests in the exact form of the real ones."""

import pathlib

from psl_jax.corpora.audioset import ListedClip
from psl_jax.networks.class_lists import AUDIOSET_CSV, read_classes

NAMES, MIDS = read_classes(AUDIOSET_CSV)
CLASSES = {mid: number for number, mid in enumerate(MIDS)}
HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=1, num_segs=1, num_unique_labels=1, num_positive_labels=1\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def segment(clip: str, start: float = 30.0, end: float = 40.0, labels=(0,)) -> ListedClip:
    return ListedClip(clip, start, end, tuple(labels))


def write_csv(path: pathlib.Path, segments) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        f'{s.id}, {s.start:.3f}, {s.end:.3f}, "{",".join(MIDS[label] for label in s.labels)}"\n'
        for s in segments
    )
    path.write_text(HEADER + "".join(rows))
    return path
