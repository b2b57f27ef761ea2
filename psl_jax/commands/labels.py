"""Imports, exports and resegments soft labels.

    psl-jax labels import SAT.parquet DATA --format=sat --segment_seconds=2 --out=labels/sat
    psl-jax labels export labels/2s DATA --split=balanced --format=parquet --out=2s.parquet
    psl-jax labels export labels/2s DATA --split=balanced --format=hf --out=FOLDER_FOR_DATASETS
    psl-jax labels resegment labels/frames DATA --split=balanced --segment_seconds=2 --out=labels/2s

To train on imported or resegmented labels, without a teacher:

    psl-jax main --config configs/psl2s.py --config.soft_labels_dir=labels/sat

docs/LABELS.md describes the formats.
"""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import logging

from psl_jax.audio.segments import Segmentation, check_hop
from psl_jax.commands import relabel
from psl_jax.data.label_manifest import WEAK, LabelRule, segmentation_of
from psl_jax.data.soft_labels import (
    SoftLabels,
    SoftLabelWriter,
    check_no_gaps,
    made_with,
    write_resegmented,
)
from psl_jax.data.source import Source, open_folder
from psl_jax.label_files import huggingface_folder, importing, published_formats, table_formats
from psl_jax.label_files.label_file import LabelFile, Options, missing_library_errors, plain_errors
from psl_jax.networks.class_lists import match_classes, read_classes
from psl_jax.runtime import cli_entry, disk_errors, files
from psl_jax.runtime.errors import UserError


class _Format(NamedTuple):
    """A format of label files."""

    suffix: str | None  # of its files; None: a folder
    open: Callable[[pathlib.Path, Options], LabelFile]
    has_logits: bool = False  # if the user does not say what its values are
    has_index: bool = False  # whether another file says which clip each row is


_FORMATS = {
    "parquet": _Format(".parquet", table_formats.open_parquet),
    "csv": _Format(".csv", table_formats.open_csv),
    "npy": _Format(".npy", published_formats.open_efficientat, has_logits=True, has_index=True),
    "ced": _Format(".h5", published_formats.open_ced, has_index=True),
    "pretrainedsed": _Format(".hdf5", published_formats.open_pretrainedsed, has_logits=True),
    "sat": _Format(".parquet", published_formats.open_sat),
    "hf": _Format(None, huggingface_folder.open_folder),
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = cli_entry.parser("labels", __doc__ or "")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_import(actions)
    export = _add_action(
        actions,
        "export",
        "Writes soft labels as a Parquet file, or as a folder for Hugging Face's datasets.",
        source="folder of soft labels",
        out="label file, or hf: folder,",
    )
    export.add_argument(
        "--format",
        choices=("parquet", "hf"),
        default="parquet",
        help="parquet: a table; hf: a folder with audio (default: parquet)",
    )
    export.add_argument(
        "--audio",
        choices=("embedded", "reference"),
        default="embedded",
        help="hf: embedded: each row holds its segment's audio; reference: rows name a file with "
        "the whole clip (default: embedded)",
    )
    _add_action(
        actions,
        "resegment",
        "Turns soft labels of some segments, such as frames, into labels of others.",
        source="folder of soft labels, which is not changed",
        out="folder of soft labels",
        seconds="required",
    )
    return parser.parse_args(arguments[1:])


def _add_action(
    actions: Any, name: str, about: str, *, source: str, out: str, seconds: str = ""
) -> argparse.ArgumentParser:
    """Adds an action with what several have; returns its parser.

    source, out: what it reads and writes. seconds: whether segments must be given; empty: they
    cannot.
    """
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about, description=about)
    add = parser.add_argument
    add("source", metavar="SOURCE", help=source)
    add("data", metavar="DATA", help=cli_entry.DATA_HELP)
    add("--out", required=True, metavar="PATH", help=f"{out} to write (required)")
    add("--split", default="balanced", help="split that the labels are of (default: balanced)")
    if seconds:
        add(
            "--segment_seconds",
            type=cli_entry.make_number_reader("segment_seconds", float, least=0.05, most=3600),
            metavar="S",
            help=f"length of the segments that get labels, in seconds ({seconds})",
        )
        relabel.add_segments(add)
    return parser


def _add_import(actions: Any) -> None:
    parser = _add_action(
        actions,
        "import",
        "Writes the labels of a file as a folder of soft labels.",
        source="label file, hf folder, or folder of soft labels that an older psl_jax wrote",
        out="folder of soft labels",
        seconds="required, unless an older psl_jax wrote SOURCE",
    )
    add = parser.add_argument
    add("--format", choices=_FORMATS, help="format of the label file (default: by its suffix)")
    add(
        "--values",
        choices=("probabilities", "logits"),
        help="values in the label file (default: logits in npy and pretrainedsed, else "
        "probabilities)",
    )
    add(
        "--index",
        metavar="FILE",
        help="npy, ced: file that says which clip each row is (default: the one beside the label "
        "file)",
    )
    add(
        "--classes",
        metavar="CSV",
        help="CSV (label, or index,mid,display_name) with the class of each column (default: the "
        "file's own names)",
    )
    for option, what in (("--unmapped", "classes"), ("--missing", "segments")):
        add(
            option,
            choices=("error", "weak"),
            default="error",
            help=f"what happens to {what} that the file lacks: an error, or their weak labels "
            "(default: error)",
        )


def main(arguments: argparse.Namespace) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every file that it reads
    actions = {"import": _import, "export": _export, "resegment": _resegment}
    actions[arguments.action](arguments, pathlib.Path(arguments.out))


def _import(arguments: argparse.Namespace, out: pathlib.Path) -> None:
    path = pathlib.Path(arguments.source)
    source = open_folder(arguments.data, arguments.split)
    if path.is_dir() and arguments.format != "hf":
        disk_errors.check_writable(out, "--out")
        importing.import_older_folder(path, source.index, out)
        relabel.tell_quality(_open_labels(out, source))
        return
    segmentation = _make_segmentation(arguments)
    fitting = [name for name, form in _FORMATS.items() if path.suffix == form.suffix]
    name = arguments.format or next(iter(fitting), None)
    if name is None:
        raise UserError(f"{path}: what kind of file? Give --format, one of {', '.join(_FORMATS)}")
    form = _FORMATS[name]
    if arguments.index and not form.has_index:
        raise UserError(f"--index means nothing for --format={name}; leave it out")
    options = Options(
        logits=form.has_logits if arguments.values is None else arguments.values == "logits",
        segmentation=segmentation,
        classes=read_classes(arguments.classes)[0] if arguments.classes else None,
        index=arguments.index or "",
    )
    with plain_errors(path):
        file = form.open(path, options)
    class_columns = match_classes(
        file.classes,
        source.index.classes,
        path,
        unmapped=arguments.unmapped,
        remedy="--unmapped=weak lets them keep their weak labels",
    )
    disk_errors.check_writable(out, "--out")
    origin = {
        "kind": "imported",
        "format": name,
        "files": [path.name for path in file.paths],
        "sha256": importing.compute_sha256(file.paths),
        "classes": files.json_digest(list(file.classes)),
        "unmapped": arguments.unmapped,
        "missing": arguments.missing,
        "logits": options.logits,
    }
    uses_weak = "weak" in (arguments.unmapped, arguments.missing)
    lines = importing.import_labels(
        file,
        path,
        index=source.index,
        segmentation=segmentation,
        class_columns=class_columns,
        directory=out,
        open_writer=lambda: _open_writer(out, source, segmentation, origin, uses_weak=uses_weak),
        fill_missing=arguments.missing == "weak",
    )
    print("\n".join(lines))
    relabel.tell_quality(_open_labels(out, source))


def _export(arguments: argparse.Namespace, out: pathlib.Path) -> None:
    is_table = arguments.format == "parquet"
    if is_table and out.suffix != ".parquet":
        raise UserError(
            f"--out={out}: expected a name that ends in .parquet; a folder needs --format=hf"
        )
    source = open_folder(arguments.data, arguments.split)
    labels = _open_labels(arguments.source, source)
    disk_errors.check_writable(out.parent, "--out")
    with (
        missing_library_errors(out),
        disk_errors.plain_disk_errors(out, "Run the same command again."),
    ):
        if is_table:
            written = table_formats.write_parquet(out, labels)
        else:
            has_audio = arguments.audio == "embedded"
            written = huggingface_folder.write(out, labels, source, has_audio=has_audio)
    print(f"soft labels of {len(labels.index):,} clips in:")
    for path in written[:5]:
        print(f"  {path}  {path.stat().st_size / 1e6:,.1f} MB")
    if len(written) > 5:
        print(f"  and {len(written) - 5} more files")


def _resegment(arguments: argparse.Namespace, out: pathlib.Path) -> None:
    segmentation = _make_segmentation(arguments)
    if out.resolve() == pathlib.Path(arguments.source).resolve():
        raise UserError("--out is the folder of the labels themselves: give another")
    source = open_folder(arguments.data, arguments.split)
    labels = _open_labels(arguments.source, source)
    check_no_gaps(labels.segmentation)
    disk_errors.check_writable(out, "--out")
    manifest = labels.manifest
    names = ("segment_seconds", "hop_seconds", "shortest_seconds")
    origin = {
        "kind": "cut",
        "teacher_digest": manifest["teacher_digest"],
        "made_with": made_with(labels),
        "cut_from": {name: manifest[name] for name in names},
    }
    if "origin" in manifest:
        origin["origin"] = manifest["origin"]
    writer = _open_writer(
        out,
        source,
        segmentation,
        origin,
        uses_weak=WEAK in manifest,
        dtype=manifest.get("dtype", ""),
    )
    write_resegmented(labels, writer)
    relabel.tell_quality(_open_labels(out, source))


# --- What the actions share -----------------------------------------------------------------------


def _make_segmentation(arguments: argparse.Namespace) -> Segmentation:
    if arguments.segment_seconds is None:
        raise UserError("give --segment_seconds: the length of the segments that get labels")
    segmentation = Segmentation(
        arguments.segment_seconds, arguments.hop_seconds or None, arguments.shortest_segment_seconds
    )
    check_hop(segmentation, "--hop_seconds")
    return segmentation


def _open_labels(folder: str | pathlib.Path, source: Source) -> SoftLabels:
    """The soft labels of a folder, cut as they were made."""
    return SoftLabels.open(folder, source.index, segmentation_of(folder))


def _open_writer(
    out: pathlib.Path,
    source: Source,
    segmentation: Segmentation,
    origin: dict[str, Any],
    *,
    uses_weak: bool,
    dtype: str = "",
) -> SoftLabelWriter:
    """Opens the writer of labels with an origin, which stands for the teacher."""
    # Without the names of files; an origin's own origin is in its `teacher_digest`.
    described = {name: value for name, value in origin.items() if name not in ("files", "origin")}
    return SoftLabelWriter(
        out,
        source.index,
        segmentation,
        teacher_digest=files.json_digest(described),
        rule=LabelRule(dtype=dtype),
        origin=origin,
        uses_weak_labels=uses_weak,
    )
