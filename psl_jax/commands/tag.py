"""Tags audio files: which classes are heard in them, and when.

    psl-jax tag runs/psl2s street.mp3
    psl-jax tag runs/psl2s recordings/ --format=csv --out=tags --plot=plots
    curl -s https://example.org/street.mp3 | psl-jax tag runs/psl2s -

Files may have any format that libsndfile or FFmpeg reads, and any rate, number of channels and
length. A folder stands for all audio files below it; standard error lists the others. A file that
cannot be read is reported there, and the others are tagged. Exit status: 0 if all files are tagged;
1 if a file could not be read; 2 for wrong settings.
"""

import argparse
import contextlib
import dataclasses
import errno
import functools
import itertools
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

import numpy as np
from tqdm import tqdm

from psl_jax.runtime import cli_entry, disk_errors, distributed, files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import make_printable, path_of
from psl_jax.tagging import output_formats, tagger, tagging_cli
from psl_jax.tagging.file_tagging import BadFile, FileTags, Input, find_files, tag_files
from psl_jax.tagging.output_formats import OutputFolder, format_clock, write_embeddings
from psl_jax.tagging.spectrogram import Spectrogram, plot_file

MANY_FILES = 50  # from here on progress is shown without a terminal, too

Output = Callable[[FileTags], object]  # what is done with the tags of a file


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("tag", __doc__ or "")
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="audio file, folder, or - for standard input"
    )
    parser.add_argument(
        "--list_labels",
        action="store_true",
        help="print the model's classes with their thresholds, and tag nothing",
    )
    tagging_cli.add_settings(parser)
    _add_output(parser)
    parsed = parser.parse_intermixed_args(arguments[1:])
    if not parsed.files and not parsed.list_labels:
        parser.error("the following arguments are required: FILE")
    return parsed


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Adds what is told of each file, and where."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=output_formats.ENDINGS,
        help="output format. table: best tags and their times; summary: one line per file, with "
        "its best tags and number of events; csv: events with onset, offset, label and score; "
        "json: best tags and events; audacity: events as a label track; raven: events as a "
        "selection table; frames: CSV of all scores over time (default: table; csv if --out is "
        "given)",
    )
    group.add_argument(
        "--top_k",
        type=cli_entry.make_number_reader("top_k", int, least=1),
        default=5,
        metavar="K",
        help="largest number of tags per file in table, summary and json (default: 5)",
    )
    group.add_argument(
        "--labels",
        metavar="NAME;NAME",
        help='classes to report, in quotes, such as "Dog;Siren" (default: all of the model)',
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        help="folder that gets one file for each input (default: standard output)",
    )
    group.add_argument(
        "--skip_existing",
        action="store_true",
        help="with --out: skip files that already have an output there (default: tag all)",
    )
    group.add_argument(
        "--embeddings",
        action="store_true",
        help="with --out: also write each file's embeddings over time, NAME.embeddings.npz "
        "(default: no embeddings)",
    )
    group.add_argument(
        "--plot",
        metavar="PNG|DIR",
        help="picture of spectrogram and tags over time: a file NAME.png for one input, else a "
        "folder (default: none)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Tags and writes; returns the exit status."""
    if arguments.list_labels:
        return _list_labels(arguments)
    inputs, bad_folders, notes = find_files(arguments.files)
    for note in notes:
        print(make_printable(note), file=sys.stderr)
    if not inputs:
        for bad in bad_folders:
            print(f"{make_printable(bad.input.path)}: {bad.reason}", file=sys.stderr)
        return 1
    arguments.format = arguments.format or ("csv" if arguments.out else "table")
    _check_settings(arguments, len(inputs))
    distributed.configure(keep_compiled_from=0.5)
    model = tagger.load(arguments.model, _split_names(arguments.labels))
    settings = tagging_cli.make_event_settings(arguments, model)
    segmentation = model.segmentation(arguments.segment_seconds, arguments.hop_seconds)
    plotter = _Plotter(arguments.plot, inputs) if arguments.plot else None
    outputs: list[Output] = [] if plotter is None else [plotter]
    paths = _add_outputs(outputs, arguments, inputs)
    totals = _Totals()
    if arguments.skip_existing:
        inputs = _leave_out_tagged(inputs, paths)
    is_single = len(inputs) == 1
    disk: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if folder := arguments.out or arguments.plot:
        advice = "The same command with --skip_existing goes on"
        disk = disk_errors.plain_disk_errors(folder, advice)
    with _make_bar(inputs) as bar, disk:
        tagged_files = tag_files(
            model,
            inputs,
            segmentation=segmentation,
            settings=settings,
            embeddings=arguments.embeddings,
            report_seconds=(lambda new: bar.update(round(new, 2))) if is_single else None,
            watch_block=None if plotter is None else plotter.watch_block,
        )
        for item in itertools.chain(bad_folders, tagged_files):
            if not is_single:
                bar.update()
            if _write_outputs(item, outputs, prints=not arguments.out):
                totals.tagged += 1
                totals.without_events += not item.found_events
                totals.seconds += item.seconds
            else:
                totals.failed += 1
    _print_totals(totals, arguments)
    return 1 if totals.failed else 0


@dataclasses.dataclass
class _Totals:
    """Numbers of files, and seconds of audio, since a time."""

    tagged: int = 0
    without_events: int = 0
    failed: int = 0
    seconds: float = 0.0
    since: float = dataclasses.field(default_factory=time.perf_counter)


def _print_totals(totals: _Totals, arguments: argparse.Namespace) -> None:
    if totals.without_events and arguments.format in ("csv", "audacity", "raven"):
        print(
            f"files without events: {totals.without_events} of {totals.tagged}, as no score "
            "reaches its threshold there. "
            "--format=table shows the highest ones; try a --threshold below them",
            file=sys.stderr,
        )
    if arguments.out and totals.tagged:
        elapsed, num_files = time.perf_counter() - totals.since, totals.tagged + totals.failed
        of = f" of {num_files}" if totals.failed else ""
        print(
            f"{totals.tagged}{of} {'files' if num_files > 1 else 'file'}, "
            f"{format_clock(totals.seconds, 0)} of audio in {elapsed:.1f} s "
            f"({totals.seconds / elapsed:.0f} times real time); "
            f"{arguments.format} in {arguments.out}"
        )


def _add_outputs(
    outputs: list[Output], arguments: argparse.Namespace, inputs: Sequence[Input]
) -> Mapping[Input, pathlib.Path]:
    """Adds what --out, --format and --embeddings ask for; returns the paths of --out."""
    if not arguments.out:
        width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
        outputs.append(output_formats.Printer(arguments.format, arguments.top_k, width))
        return {}
    disk_errors.check_writable(arguments.out, "--out")
    if arguments.embeddings:
        ending = ".embeddings.npz"
        embedding_paths = output_formats.choose_output_paths(arguments.out, inputs, ending)
        outputs.append(lambda tags: write_embeddings(embedding_paths[tags.input], tags))
    folder = OutputFolder(arguments.out, inputs, output_formats.ENDINGS[arguments.format])
    # The last, as its file says that all is done.
    outputs.append(lambda tags: folder.write(tags, arguments.format, arguments.top_k))
    return folder.paths


def _leave_out_tagged(inputs: Sequence[Input], paths: Mapping[Input, pathlib.Path]) -> list[Input]:
    """Returns the inputs without an output, and prints how many others there are."""
    has_output = files.exist([paths[item] for item in inputs])
    if num_tagged := sum(has_output):
        print(f"{num_tagged} of {len(inputs)} are tagged already", file=sys.stderr)
    return [item for item, is_tagged in zip(inputs, has_output, strict=True) if not is_tagged]


def _check_settings(arguments: argparse.Namespace, num_inputs: int) -> None:
    """Raises UserError for settings that do not fit."""
    if arguments.skip_existing and not arguments.out:
        raise UserError("--skip_existing looks for what lies in --out=DIR: give that, too")
    if arguments.embeddings and not arguments.out:
        raise UserError("--embeddings writes files into --out=DIR: give that, too")
    if arguments.format in ("audacity", "raven", "frames") and not arguments.out and num_inputs > 1:
        raise UserError(f"--format={arguments.format} makes a file for each input: give --out=DIR")


def _write_outputs(
    item: FileTags | BadFile, outputs: Sequence[Output], *, prints: bool
) -> TypeGuard[FileTags]:
    """Hands the tags of a file to the outputs; tells whether they are written.

    What is wrong with a file is a line on standard error.
    """
    tell = functools.partial(tqdm.write, file=sys.stderr)
    name = make_printable(item.input.path)
    if isinstance(item, BadFile):
        tell(f"{name}: {item.reason}")
        return False
    try:
        # Clearing the bar takes longer than tagging a short file.
        with tqdm.external_write_mode() if prints else contextlib.nullcontext():
            for output in outputs:
                output(item)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        tell(f"{name}: its output has too long a name ({error.filename})")
        return False
    return True


def _list_labels(arguments: argparse.Namespace) -> int:
    """Prints class and threshold, separated by a tab."""
    distributed.configure()
    model = tagger.load(arguments.model, _split_names(arguments.labels))
    for name, threshold in zip(model.labels, model.thresholds, strict=True):
        print(f"{name}\t{threshold:.4g}")
    if model.info.thresholds is None:
        print("no thresholds were tuned: psl-jax thresholds does", file=sys.stderr)
    return 0


def _split_names(text: str | None) -> list[str] | None:
    """Splits the classes of --labels; None: all."""
    return None if text is None else [name.strip() for name in text.split(";") if name.strip()]


class _Plotter:
    """Draws each file, whose spectrogram it makes while the file is read for its tags."""

    def __init__(self, target: str, inputs: Sequence[Input]):
        is_folder = not target.lower().endswith(".png")
        disk_errors.check_writable(target if is_folder else path_of(target).parent, "--plot")
        self._folder = OutputFolder(target, inputs, ".png") if is_folder else None
        if self._folder is None and len(inputs) > 1:
            raise UserError(f"--plot={target} is one plot for {len(inputs)} files: give a folder")
        self._file = path_of(target)
        self._spectrograms: dict[Input, Spectrogram] = {}

    def watch_block(self, item: Input, block: np.ndarray) -> None:
        """Takes the next samples of a file."""
        self._spectrograms.setdefault(item, Spectrogram()).add(block)

    def __call__(self, tags: FileTags) -> None:
        for item in list(self._spectrograms):  # those of bad files before this one are dropped
            spectrogram = self._spectrograms.pop(item)
            if item == tags.input:
                path = self._file if self._folder is None else self._folder.paths[item]
                if self._folder is not None:
                    self._folder.note(item)
                plot_file(tags, path, *spectrogram.finish())
                return


def _make_bar(inputs: Sequence[Input]) -> tqdm:
    """Makes a bar over files, or for a single file over its seconds."""
    show = sys.stderr.isatty() or len(inputs) >= MANY_FILES
    if len(inputs) != 1:
        return progress.bar(len(inputs), "file", "tag", show=show)
    return progress.bar(None, "s of audio", "tag", show=show)
