"""Settings that the command line and the web page share: how a file is cut, what makes an event."""

import argparse
import os
from collections.abc import Mapping, Sequence

from absl import flags

from psl_jax.audio.segments import Segmentation
from psl_jax.model.thresholds import DEFAULT
from psl_jax.runtime import cli_entry, csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.tagger import Tagger


def parser(program: str, doc: str) -> argparse.ArgumentParser:
    """A parser that takes MODEL; `doc` is the docstring of the program's module."""
    result = cli_entry.parser(program, doc)
    result.add_argument("model", metavar="MODEL", help="folder of a finished run, or another model")
    return result


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the shared settings to a parser."""
    group = parser.add_argument_group("segments")
    group.add_argument(
        "--segment_seconds",
        type=float,
        metavar="S",
        help="length of the segments that the network is given (default: of those it was trained "
        "on); 0: each file whole, in one pass",
    )
    group.add_argument(
        "--hop_seconds",
        type=float,
        metavar="S",
        help="from one segment's start to the next (default: a quarter of their length); scores "
        "of segments that overlap are averaged, those in their middle weighing more",
    )
    group = parser.add_argument_group("events")
    group.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="an event has a score of at least this somewhere (default: of each class what "
        "psl-jax thresholds has found and stored with the model, see --list_labels; else 0.5)",
    )
    group.add_argument(
        "--thresholds",
        metavar="FILE",
        help="those of some classes: a CSV file with the columns class and threshold, such as the "
        "page saves and psl-jax thresholds --csv writes; the other classes have --threshold",
    )
    group.add_argument(
        "--low_threshold",
        type=float,
        metavar="P",
        help="and reaches as far as scores are at least this: hysteresis (default: --threshold)",
    )
    group.add_argument(
        "--median_filter",
        type=int,
        default=1,
        metavar="N",
        help="first smooth the scores by a median over N frames of 0.32 s, an odd number "
        "(default: 1, not at all)",
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses a command line that begins with the program's name, as `cli_entry.run` gives it."""
    flags.FLAGS(arguments[:1])  # absl wants its own flags parsed, and has none here
    return parser.parse_args(arguments[1:])


def event_settings(arguments: argparse.Namespace, tagger: Tagger | None = None) -> EventSettings:
    """What makes an event; without --threshold a class's is the model's, or 0.5 without a model.

    Raises UserError for values out of range, and for a file of thresholds that cannot be used.
    """
    threshold = arguments.threshold
    if threshold is None:
        threshold = DEFAULT if tagger is None else tagger.thresholds
    if arguments.thresholds:
        own = read_thresholds(arguments.thresholds)
        if tagger is not None:
            threshold = _with_own(threshold, own, tagger.labels, arguments.thresholds)
    return EventSettings(threshold, arguments.low_threshold, arguments.median_filter)


def read_thresholds(path: str | os.PathLike) -> dict[str, float]:
    """{class: threshold} of a CSV file with those columns. Raises UserError, naming the line."""
    found: dict[str, float] = {}
    for line, row in csv_files.read_rows(path, ("class", "threshold")):
        name, value = row["class"], row["threshold"]
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = 0.0
        if not 0 < found[name] <= 1:
            raise UserError(
                f"{path}, line {line}: the threshold of {name!r} is {value!r:.40}, expected more "
                "than 0 and at most 1"
            )
    return found


def _with_own(
    threshold: float | tuple[float, ...],
    own: Mapping[str, float],
    labels: Sequence[str],
    path: str,
) -> tuple[float, ...]:
    """`threshold`, or those of a file where it has some. A model may know fewer classes."""
    if own and not set(own) & set(labels):
        raise UserError(f"{path}: none of its {len(own)} classes is one of the model's")
    each = threshold if isinstance(threshold, tuple) else (threshold,) * len(labels)
    return tuple(own.get(name, value) for name, value in zip(labels, each, strict=True))


def segmentation(arguments: argparse.Namespace, tagger: Tagger) -> Segmentation | None:
    """None for whole files. Raises UserError for values out of range."""
    return tagger.segmentation(arguments.segment_seconds, arguments.hop_seconds)
