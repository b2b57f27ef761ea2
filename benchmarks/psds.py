"""PSDS of a run beside that of sed_scores_eval, called by hand on the same scores.

    python benchmarks/psds.py RUN DATA [--split eval] [--median_filter 7]

Prints both, and the largest difference of a class. Needs sed-scores-eval-np2 (a compiler and
pandas<3), which wants true events of a class that do not overlap: those that do are joined first.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
import sed_scores_eval
from sed_scores_eval.base_modules.scores import create_score_dataframe

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.source import open_folder
from psl_jax.scoring import event_metrics
from psl_jax.tagging import event_evaluation
from psl_jax.tagging.events import EventSettings, smooth_rows
from psl_jax.tagging.tagger import Tagger
from psl_jax.weights.load_model import load_model

Event = tuple[float, float, str]


def join_overlapping(events: list[Event]) -> list[Event]:
    """Joins events of one class that overlap or touch."""
    joined: list[list] = []
    for onset, offset, label in sorted(events, key=lambda event: (event[2], event[0])):
        if joined and joined[-1][2] == label and onset <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], offset)
        else:
            joined.append([onset, offset, label])
    return sorted((onset, offset, label) for onset, offset, label in joined)


def main() -> None:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=about, epilog=more)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split", default="eval")
    parser.add_argument("--median_filter", type=int, default=7)
    options = parser.parse_args()
    source = open_folder(options.data, options.split)
    index, names = source.index, list(source.index.classes)
    tagger = Tagger(load_model(options.run).for_classes(index.classes))
    smoothing = EventSettings(median_filter=options.median_filter)
    durations = index.num_samples / SAMPLE_RATE
    clips = np.arange(len(index))
    assert index.annotated.all(), f"some clips of {options.split} have no true events"
    steps = {
        clip: event_evaluation.make_steps(smooth_rows(rows, smoothing), float(durations[clip]))
        for clip, rows in event_evaluation.score_clips(tagger, source, clips)
    }
    ours = event_metrics.evaluate_events(
        [steps[clip] for clip in clips.tolist()], index, np.array(tagger.thresholds)
    )
    scores, events = {}, {}
    for clip in clips.tolist():
        first, end = index.event_offsets[clip : clip + 2]
        true = zip(index.event_times[first:end], index.event_values[first:end], strict=True)
        events[str(clip)] = join_overlapping(
            [(float(onset), float(offset), names[label]) for (onset, offset), label in true]
        )
        edges = np.round(steps[clip].edges, 6)
        scores[str(clip)] = create_score_dataframe(steps[clip].scores.astype(float), edges, names)
    lengths = dict(zip(map(str, clips.tolist()), durations.tolist(), strict=True))
    for name, settings in event_metrics.PSDS.items():
        confusion = {"cttc_threshold": settings.cttc, "alpha_ct": settings.alpha_ct}
        by_hand, of_classes, *_ = sed_scores_eval.intersection_based.psds(
            scores,
            events,
            lengths,
            dtc_threshold=settings.dtc,
            gtc_threshold=settings.gtc,
            **(confusion if settings.alpha_ct else {}),
            alpha_st=1.0,
            max_efpr=event_metrics.MAX_FALSE_POSITIVES,
        )
        pairs = zip(names, ours.classes[name], strict=True)
        largest = max(abs(value - of_classes[label]) for label, value in pairs if value is not None)
        mean = ours.summary[name]
        print(f"{name} {mean:.6f}, by hand {by_hand:.6f}; largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
