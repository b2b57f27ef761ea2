"""Flags of segments and events that the command line and the web page share."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from psl_jax.networks.class_lists import clean_name, find_class, near_names
from psl_jax.runtime import cli_entry, csv_files
from psl_jax.runtime.errors import UserError
from psl_jax.tagging.events import EventSettings
from psl_jax.tagging.tagger import Tagger


def make_parser(program: str, doc: str) -> argparse.ArgumentParser:
    """Makes a parser that takes MODEL; `doc` is the docstring of the program's module."""
    parser = cli_entry.parser(program, doc)
    about = "folder of a run, a .safetensors or .pt file"
    if program != "thresholds":
        about += ", mn04 (EfficientAT's published tagger of AudioSet), or hf://USER/NAME"
    parser.add_argument("model", metavar="MODEL", help=about)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the shared settings to a parser."""
    group = parser.add_argument_group("segments")
    group.add_argument(
        "--segment_seconds",
        type=float,
        metavar="S",
        help="length of the segments scored at once, in seconds (default: as in training)",
    )
    group.add_argument(
        "--hop_seconds",
        type=float,
        metavar="S",
        help="seconds from the start of one segment to the start of the next; where segments "
        "overlap, their scores are averaged (default: a quarter of the segment's length)",
    )
    group = parser.add_argument_group("events")
    group.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="score, 0 to 1, that an event must reach; mn04 seldom reaches 0.5 (default: "
        "each class's own, stored by psl-jax thresholds; else 0.5)",
    )
    group.add_argument(
        "--thresholds",
        metavar="FILE",
        help="CSV class,threshold, as written by psl-jax thresholds --csv or the page of serve; "
        "classes not in it use --threshold, else the model's (default: none)",
    )
    add_smoothing(group)


def add_smoothing(parser: Any, default: int | None = None) -> None:
    """Adds what is done to the scores over time before events are found."""
    otherwise = "that of the model's tuned thresholds, else 1" if default is None else default
    parser.add_argument(
        "--median_filter",
        type=int,
        default=default,
        metavar="N",
        help="median filter over scores, odd number of frames of 0.32 s; 1: none (default: "
        f"{otherwise})",
    )


def make_event_settings(arguments: argparse.Namespace, tagger: Tagger) -> EventSettings:
    """Makes the settings of events; what is not given is the model's.

    Raises UserError for values out of range, and for a file of thresholds that cannot be used.
    """
    by_name = {}
    if arguments.thresholds:
        of_file = read_thresholds(arguments.thresholds, tagger.model_labels)
        by_name = {name: of_file[name] for name in tagger.labels if name in of_file}
    settings = EventSettings(tagger.thresholds, tagger.median_filter)
    return settings.change(tagger.labels, arguments.threshold, by_name, arguments.median_filter)


def read_thresholds(path: str | os.PathLike[str], classes: Sequence[str]) -> dict[str, float]:
    """Reads {class: threshold} from a CSV file with those columns.

    classes: the model's, whose spelling the names get. Raises UserError, naming the line, for
    another class, a repeated class, or a bad threshold.
    """
    thresholds: dict[str, float] = {}
    for line, row in csv_files.read_rows(path, ("class", "threshold")):
        where, name, value = f"{path}, line {line}", clean_name(row["class"]), row["threshold"]
        number = find_class(name, classes)
        if number is None:
            raise UserError(f"{where}: there is no class {name!r}{near_names(name, classes)}")
        name = classes[number]
        if name in thresholds:
            raise UserError(f"{where}: {name!r} is named a second time")
        try:
            thresholds[name] = csv_files.parse_number(value)
        except ValueError:
            thresholds[name] = 0.0
        if not 0 < thresholds[name] <= 1:
            raise UserError(
                f"{where}: the threshold of {name!r} is {value!r:.40}, expected more than 0 and at "
                "most 1"
            )
    return thresholds
