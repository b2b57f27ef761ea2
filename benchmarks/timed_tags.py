"""F1 of tags with times against true events, for one or several models, computed by sed_eval.

    python benchmarks/timed_tags.py runs/quickstart/psl2s runs/quickstart/weak --data_dir DATA

DATA is a prepared data set with true events, such as the one that configs/quickstart.py
makes. A class's threshold is the one of best F1 on `--tune_split`; the figures are of `--split`.
Event-based: onsets within `--collar` seconds, offsets within that or a fifth of the event's
length. Segment-based: activity in segments of 1 s. F1 is the mean over classes, and over all
events together ("micro"). Prints a table and writes JSON.
"""

import argparse
import itertools
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import exported_map

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.data.clip_index import ClipIndex
from psl_jax.data.source import Source
from psl_jax.runtime import cli_entry, files
from psl_jax.runtime.errors import UserError
from psl_jax.tagging import tagger
from psl_jax.tagging.events import Event, EventFinder, EventSettings

THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2).tolist())
KINDS = ("event", "segment")
SEGMENT_SECONDS = 1.0
OFFSET_SHARE = 0.2  # of an event's length: how far off its offset may be

Events = list[list[Event]]  # of each clip


class Scores(NamedTuple):
    """What sed_eval finds: mean F1 over classes, F1 over all, and F1 of each class."""

    macro: float
    micro: float
    classes: list[float]


def open_split(data_dir: str, split: str) -> Source:
    """A prepared split. Raises UserError where it has no true events."""
    source = exported_map.open_split(data_dir, split)
    if not source.index.annotated.any():
        raise UserError(f"split {split!r} of {data_dir} has no true events to compare with")
    return source


def frame_scores(model: tagger.Tagger, source: Source) -> list[np.ndarray]:
    """Scores over time of each clip, as `psl-jax tag` computes them: float32 [rows, classes]."""
    segmentation = model.segmentation()
    index = source.index
    rows: list[list[np.ndarray]] = [[] for _ in range(len(index))]
    for clips in np.array_split(np.arange(len(index)), -(-len(index) // 256)):
        audio = list(source.read_whole(clips))
        blocks = [lambda waveform=waveform: iter([waveform]) for waveform in audio]
        for item in model.run(blocks, segmentation):
            rows[clips[item.source]].append(item.rows)
    return [np.concatenate(parts) for parts in rows]


def found_events(
    scores: Sequence[np.ndarray], index: ClipIndex, threshold: float, median_filter: int
) -> Events:
    """Events of each clip where all classes have the same threshold."""
    found = []
    for rows, samples in zip(scores, index.num_samples, strict=True):
        finder = EventFinder(EventSettings(threshold, None, median_filter), index.classes)
        finder.add(rows)
        found.append(finder.finish(samples / SAMPLE_RATE))
    return found


def true_events(index: ClipIndex) -> Events:
    """The events that are known of each clip."""
    offsets, times, labels = index.event_offsets, index.event_times, index.event_values
    return [
        [Event(*map(float, times[i]), index.classes[labels[i]], 1.0) for i in range(low, high)]
        for low, high in itertools.pairwise(offsets)
    ]


def with_thresholds(by_threshold: dict[float, Events], chosen: dict[str, float]) -> Events:
    """The events where each class has its threshold of `chosen`."""
    result: Events = [[] for _ in next(iter(by_threshold.values()))]
    for threshold, found in by_threshold.items():
        for events, clip in zip(found, result, strict=True):
            clip += [event for event in events if chosen[event.label] == threshold]
    return result


def compare(index: ClipIndex, found: Events, kind: str, collar: float) -> Scores:
    """F1 of the events that were found, against the true ones of the index."""
    sed_eval, container = _sed_eval()
    names = list(index.classes)
    if kind == "event":
        metric = sed_eval.sound_event.EventBasedMetrics(
            names, t_collar=collar, percentage_of_length=OFFSET_SHARE
        )
    else:
        metric = sed_eval.sound_event.SegmentBasedMetrics(names, time_resolution=SEGMENT_SECONDS)
    clips = zip(index.ids, index.num_samples, true_events(index), found, strict=True)
    for clip_id, samples, truth, ours in itertools.compress(clips, index.annotated):
        lists = [
            container(
                [
                    {
                        "file": str(clip_id),
                        "onset": event.onset,
                        "offset": event.offset,
                        "event_label": event.label,
                    }
                    for event in events
                ]
            )
            for events in (truth, ours)
        ]
        more = {} if kind == "event" else {"evaluated_length_seconds": samples / SAMPLE_RATE}
        metric.evaluate(*lists, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without events: NaN, left out of the mean
        by_class = metric.results_class_wise_metrics()
        classes = [float(by_class[name]["f_measure"]["f_measure"]) for name in names]
        micro = metric.results_overall_metrics()["f_measure"]["f_measure"]
    known = np.bincount(index.event_values, minlength=len(names)) > 0
    return Scores(float(np.nan_to_num(classes)[known].mean()), float(np.nan_to_num(micro)), classes)


def _sed_eval() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports what is deprecated
            import dcase_util
            import sed_eval
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[analysis]'") from error
    return sed_eval, dcase_util.containers.MetaDataContainer


def choose_thresholds(
    index: ClipIndex, by_threshold: dict[float, Events], kind: str, collar: float
) -> dict[str, float]:
    """The threshold of best F1 for each class; of equals the highest."""
    scores = [compare(index, found, kind, collar).classes for found in by_threshold.values()]
    best = len(scores) - 1 - np.argmax(np.nan_to_num(scores)[::-1], axis=0)
    thresholds = [list(by_threshold)[i] for i in best]
    return dict(zip(index.classes, thresholds, strict=True))


def evaluate(path: str, splits: Sequence[Source], collar: float, median_filter: int) -> dict:
    """Figures of one model: thresholds from the first split, F1 on the second."""
    model = tagger.load(path)
    for source in splits:
        if source.index.classes != model.labels:
            raise UserError(
                f"{path} knows other classes ({', '.join(model.labels[:3])}, …) than split "
                f"{source.index.split!r} ({', '.join(source.index.classes[:3])}, …)"
            )
    events = []
    for source in splits:
        scores = frame_scores(model, source)
        events.append({t: found_events(scores, source.index, t, median_filter) for t in THRESHOLDS})
    result: dict[str, Any] = {"model": path, "segment_seconds": model.segment_seconds}
    (tune, test), index = events, splits[1].index
    for kind in KINDS:
        chosen = choose_thresholds(splits[0].index, tune, kind, collar)
        found = compare(index, with_thresholds(test, chosen), kind, collar)
        classes = [None if np.isnan(f1) else f1 for f1 in found.classes]
        result[kind] = found._asdict() | {
            "thresholds": chosen,
            "classes": dict(zip(index.classes, classes, strict=True)),
        }
    return result


def table(results: Sequence[dict]) -> str:
    width = max(len(result["model"]) for result in results)
    lines = [f"{'model':{width}}  event F1  micro  segment F1  micro"]
    for result in results:
        event, segment = result["event"], result["segment"]
        lines.append(
            f"{result['model']:{width}}  {event['macro']:8.3f}  {event['micro']:5.3f}  "
            f"{segment['macro']:10.3f}  {segment['micro']:5.3f}"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", metavar="RUN", nargs="+", help="folders of finished runs, or other models")
    add("--data_dir", required=True, help="prepared data with true events")
    add("--tune_split", default="balanced", help="for the thresholds (default: balanced)")
    add("--split", default="eval", help="for the figures (default: eval)")
    add("--collar", type=float, default=0.2, metavar="S", help="event-based (default: 0.2)")
    add("--median_filter", type=int, default=1, metavar="N", help="frames of 0.32 s (default: 1)")
    add("--out", default="timed_tags.json", metavar="JSON")
    flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    return parser.parse_args(arguments[1:])


def main(arguments: argparse.Namespace) -> None:
    _sed_eval()  # missing, it is better missed at once
    splits = [open_split(arguments.data_dir, s) for s in (arguments.tune_split, arguments.split)]
    settings = arguments.collar, arguments.median_filter
    results = [evaluate(path, splits, *settings) for path in arguments.models]
    index = splits[1].index
    print(f"{index.annotated.sum()} clips of {arguments.split}, {len(index.event_values)} events")
    print(table(results))
    about = vars(arguments) | {"clips": len(index), "ids_sha256": index.ids_sha256}
    files.write_json(arguments.out, about | {"results": results})


if __name__ == "__main__":
    cli_entry.run(main, parse)
