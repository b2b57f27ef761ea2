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
import errno
import itertools
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psl_jax.runtime import cli_entry, disk_errors, files, progress
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import is_remote, make_printable, path_of
from psl_jax.tagging import tagging_cli

if TYPE_CHECKING:
    import numpy as np

    from psl_jax.tagging.file_tagging import FileTags, Input

_LOOKED_UP = 256  # outputs that are looked for at once
MANY_FILES = 50  # from here on progress is shown without a terminal, too


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = tagging_cli.make_parser("tag", __doc__ or "")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        help="audio file, folder, pattern, or - for standard input",
    )
    parser.add_argument(
        "--list_labels",
        action="store_true",
        help="print the model's classes with their thresholds, and tag nothing",
    )
    tagging_cli.add_settings(parser)
    _add_output(parser)
    parsed = tagging_cli.parse_arguments(parser, arguments)
    if not parsed.files and not parsed.list_labels:
        parser.error("the following arguments are required: FILE")
    return parsed


def _add_output(parser: argparse.ArgumentParser) -> None:
    """Adds what is told of each file, and where."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=("table", "summary", "csv", "json", "audacity", "raven", "frames"),
        help="output format. table: best tags and their times; summary: one line per file, with "
        "its best tags and number of events; csv: events with onset, offset, label and score; "
        "json: best tags and events; audacity: events as a label track; raven: events as a "
        "selection table; frames: CSV of all scores over time (default: table, with --out csv)",
    )
    group.add_argument(
        "--top_k",
        type=int,
        default=5,
        metavar="K",
        help="most tags in table, summary and json (default: 5)",
    )
    group.add_argument(
        "--min_score",
        type=float,
        default=0.0,
        metavar="P",
        help="lowest score of the tags in table, summary and json (default: 0)",
    )
    group.add_argument(
        "--labels",
        metavar="NAME;NAME",
        help="classes to tag, separated by semicolons (default: all of the model)",
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        help="folder that gets one file for each input (default: standard output)",
    )
    group.add_argument(
        "--skip_existing",
        action="store_true",
        help="with --out: leave out inputs whose output is there (default: tag all)",
    )
    group.add_argument(
        "--embeddings",
        action="store_true",
        help="with --out: also write each file's embeddings over time, NAME.embeddings.npz "
        "(default: no embeddings)",
    )
    group.add_argument(
        "--keep_truncated",
        action="store_true",
        help="tag damaged and truncated files as far as they can be read (default: report them as "
        "errors)",
    )
    group.add_argument(
        "--plot",
        metavar="PNG|DIR",
        help="picture of spectrogram and tags over time: a file NAME.png for one input, else a "
        "folder (default: none)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Tags and writes; returns the exit status."""
    from psl_jax.runtime import distributed
    from psl_jax.tagging import file_tagging, output_formats, tagger

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if arguments.list_labels:
        return _list_labels(arguments)
    tagging_cli.make_event_settings(arguments)  # what is wrong is told before anything is computed
    looked = file_tagging.find_files(arguments.files)
    for note in looked.notes:
        print(make_printable(note), file=sys.stderr)
    if not looked.inputs:
        for item in looked.bad:
            print(f"{make_printable(item.input.path)}: {item.reason}", file=sys.stderr)
        return 1
    outputs = _outputs(arguments, looked.inputs)
    distributed.configure(keep_compiled_from=0.5)
    model = tagger.load(arguments.model, _names(arguments.labels))
    settings = tagging_cli.make_event_settings(arguments, model)
    segmentation = tagging_cli.make_segmentation(arguments, model)
    keep = file_tagging.KeepOptions(
        arguments.format == "frames", arguments.embeddings, arguments.keep_truncated
    )
    start = time.perf_counter()
    work: Iterable[Any] = looked.inputs
    if arguments.skip_existing:
        paths = output_formats.choose_output_paths(
            arguments.out, looked.inputs, output_formats.ENDINGS[arguments.format]
        )
        work = _unfinished(looked.inputs, paths)
    with _Bar(looked.inputs) as bar:
        plotter = next((output for output in outputs if isinstance(output, _Plotter)), None)
        watch = None if plotter is None else plotter.watch_block
        tagged_files = file_tagging.tag_files(
            model,
            work,
            segmentation=segmentation,
            settings=settings,
            keep=keep,
            report_seconds=bar.report_seconds,
            watch_block=watch,
        )
        folder = arguments.out or arguments.plot
        advice = "The same command with --skip_existing goes on"
        with disk_errors.plain_disk_errors(folder, advice) if folder else contextlib.nullcontext():
            done, failed, seconds = _write_outputs(
                itertools.chain(looked.bad, tagged_files), outputs, bar
            )
    if skipped := len(looked.inputs) + len(looked.bad) - done - failed:
        print(f"{skipped} of {len(looked.inputs)} are tagged already", file=sys.stderr)
        # In a bucket each time would be a request.
        older = 0 if is_remote(arguments.out) else _count_older(paths.values(), arguments.model)
        if older:
            print(
                f"note: {older} of them are older than the model or its thresholds: delete them, "
                "or give another --out, to have them made anew",
                file=sys.stderr,
            )
    if arguments.out:
        _summarize(done, done + failed, seconds, time.perf_counter() - start, arguments)
    return 1 if failed else 0


def _write_outputs(
    tagged_files: Iterable[Any], outputs: Sequence[Callable[..., Any]], bar: "_Bar"
) -> tuple[int, int, float]:
    """Hands what was found to the outputs; a line on standard error for each file that is bad.

    Returns how many were tagged, how many were not, and the seconds of audio.
    """
    from psl_jax.tagging.file_tagging import BadFile
    from psl_jax.tagging.output_formats import Printer

    prints = any(isinstance(output, Printer) for output in outputs)
    done, failed, seconds = 0, 0, 0.0
    for item in tagged_files:
        bar.file_done()
        name = make_printable(item.input.path)
        if isinstance(item, BadFile):
            bar.tell(f"{name}: {item.reason}")
            failed += 1
        else:
            if item.cut:
                bar.tell(f"{name}: {item.cut}, tagged as far as it goes")
            # Clearing the bar takes longer than tagging a short file.
            with bar.paused() if prints else contextlib.nullcontext():
                try:
                    for output in outputs:
                        output(item)
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:
                        raise
                    bar.tell(f"{name}: its output has too long a name ({error.filename})")
                    failed += 1
                    continue
            done, seconds = done + 1, seconds + item.seconds
    return done, failed, seconds


def _list_labels(arguments: argparse.Namespace) -> int:
    """Prints class and threshold, separated by a tab."""
    from psl_jax.networks.trained_model import DEFAULT_THRESHOLD
    from psl_jax.runtime import distributed
    from psl_jax.weights.load_model import load_model

    distributed.configure()
    model = load_model(arguments.model)
    if names := _names(arguments.labels):
        model = model.for_classes(names)
    tuned = model.info.thresholds
    for name, value in zip(
        model.classes,
        tuned.values if tuned else [DEFAULT_THRESHOLD] * len(model.classes),
        strict=True,
    ):
        print(f"{name}\t{value:.4g}")
    if tuned is None:
        print("no thresholds were tuned: psl-jax thresholds does", file=sys.stderr)
    return 0


def _outputs(arguments: argparse.Namespace, inputs: Sequence[Any]) -> list[Callable[..., Any]]:
    """What is done with the tags of each file. Raises UserError for settings that do not fit."""
    from psl_jax.tagging import output_formats

    arguments.format = arguments.format or ("csv" if arguments.out else "table")
    if arguments.top_k < 1:
        raise UserError(f"top_k is {arguments.top_k}, expected 1 or more")
    if not 0 <= arguments.min_score <= 1:
        raise UserError(f"min_score is {arguments.min_score:g}, expected 0 to 1")
    if arguments.skip_existing and not arguments.out:
        raise UserError("--skip_existing looks for what lies in --out=DIR: give that, too")
    if arguments.embeddings and not arguments.out:
        raise UserError("--embeddings writes files into --out=DIR: give that, too")
    if arguments.format in ("audacity", "raven") and not arguments.out and len(inputs) > 1:
        raise UserError(f"--format={arguments.format} makes a file for each input: give --out=DIR")
    best = output_formats.TagLimits(arguments.top_k, arguments.min_score)
    outputs: list[Callable[..., Any]] = []
    if arguments.embeddings:
        outputs.append(output_formats.EmbeddingWriter(arguments.out, inputs))
    if arguments.plot:
        outputs.append(_Plotter(arguments.plot, inputs))
    if arguments.out:  # the last, as its file says that all is done
        disk_errors.check_writable(arguments.out, "--out")
        outputs.append(output_formats.FolderWriter(arguments.out, inputs, arguments.format, best))
    else:
        width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
        outputs.append(output_formats.Printer(arguments.format, best, width))
    return outputs


def _unfinished(inputs: Sequence[Any], paths: "Mapping[Input, Any]") -> Iterator[Any]:
    """The inputs whose output is not there when their turn comes.

    Two processes may tag the same file: each output is renamed into its place, complete.
    """
    for first in range(0, len(inputs), _LOOKED_UP):
        some = inputs[first : first + _LOOKED_UP]
        there = files.exist([paths[item] for item in some])
        yield from (item for item, done in zip(some, there, strict=True) if not done)


def _count_older(paths: Iterable[pathlib.Path], model: str) -> int:
    """How many outputs are older than the files of a model, as when it got new thresholds."""
    folder = path_of(model)
    inside = ("averaged/model.json", "model.json", "model.safetensors")
    places = [folder, *(folder / name for name in inside)]
    changed = [path.stat().st_mtime for path in places if path.is_file()]
    written = [path.stat().st_mtime for path in paths if path.exists()]
    return sum(time < max(changed) for time in written) if changed else 0


def _names(text: str | None) -> list[str] | None:
    """The classes of --labels; None: all."""
    return None if text is None else [name.strip() for name in text.split(";") if name.strip()]


class _Plotter:
    """Draws each file, whose spectrogram it makes while the file is read for its tags."""

    def __init__(self, target: str, inputs: Sequence[Any]):
        from psl_jax.tagging import output_formats

        is_folder = not target.lower().endswith(".png")
        disk_errors.check_writable(target if is_folder else path_of(target).parent, "--plot")
        self._folder = output_formats.OutputFolder(target, inputs, ".png") if is_folder else None
        if self._folder is not None:
            self._paths = self._folder.paths
        elif len(inputs) > 1:
            raise UserError(f"--plot={target} is one plot for {len(inputs)} files: give a folder")
        else:
            self._paths = {item: path_of(target) for item in inputs}
        self._spectrograms: dict[Input, Any] = {}

    def watch_block(self, item: "Input", block: "np.ndarray") -> None:
        """Takes the next samples of a file."""
        from psl_jax.tagging.spectrogram import Spectrogram

        self._spectrograms.setdefault(item, Spectrogram()).add(block)

    def __call__(self, tags: "FileTags") -> None:
        from psl_jax.tagging.spectrogram import plot_file

        for item in list(self._spectrograms):  # those of bad files before this one are dropped
            spectrogram = self._spectrograms.pop(item)
            if item == tags.input:
                plot_file(tags, self._paths[item], *spectrogram.finish())
                if self._folder is not None:
                    self._folder.note(item)
                return


def _summarize(
    done: int, total: int, seconds: float, elapsed: float, arguments: argparse.Namespace
) -> None:
    from psl_jax.tagging.output_formats import format_clock

    of = f" of {total}" if done < total else ""
    noun = "files" if total > 1 else "file"
    print(
        f"{done}{of} {noun}, {format_clock(seconds, 0)} of audio in {elapsed:.1f} s "
        f"({seconds / elapsed:.0f} times real time); {arguments.format} in {arguments.out}"
    )


class _Bar:
    """Progress over files, or for a single file over its seconds."""

    def __init__(self, inputs: Sequence[Any]):
        self.single = len(inputs) == 1
        total = _stated_seconds(inputs[0].path) if self.single else len(inputs)
        show = sys.stderr.isatty() or len(inputs) >= MANY_FILES
        unit = "s of audio" if self.single else "file"
        self._bar = progress.bar(total, unit, "tag", show=show)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def report_seconds(self, seconds: float) -> None:
        if self.single:
            self._bar.update(round(seconds, 2))

    def file_done(self) -> None:
        if not self.single:
            self._bar.update()

    def tell(self, line: str) -> None:
        """Prints a line to standard error."""
        with self.paused():
            print(line, file=sys.stderr)

    def paused(self) -> contextlib.AbstractContextManager[Any]:
        """Clears the bar while something else is printed."""
        pause: contextlib.AbstractContextManager[Any] = self._bar.external_write_mode()
        return pause


def _stated_seconds(path: str) -> float | None:
    """Length of a file as its header has it, where it can be relied on."""
    from psl_jax.audio.decoding import read_form
    from psl_jax.audio.readers import DecodeError

    if not is_remote(path) and not os.path.isfile(path):
        return None  # a pipe can be read only once
    try:
        seconds = read_form(path).seconds
    except DecodeError:
        return None
    return None if seconds is None else round(seconds, 2)


if __name__ == "__main__":
    cli_entry.run(main, parse, takes_buckets=True)
