"""Imports, exports and resegments soft labels, and writes a page to judge them by ear.

    psl-jax labels import SAT.parquet DATA --format=sat --segment_seconds=2 --out=labels/sat
    psl-jax labels export labels/2s DATA --split=balanced --format=parquet --out=2s.parquet
    psl-jax labels export labels/2s DATA --split=balanced --format=hf --out=FOLDER_FOR_DATASETS
    psl-jax labels resegment labels/frames DATA --split=balanced --segment_seconds=2 --out=labels/2s
    psl-jax labels page labels/2s DATA --split=balanced --samples=50 --out=labels.html

To train on imported or resegmented labels, without a teacher:

    psl-jax main --config configs/psl2s.py --config.soft_labels_dir=labels/sat

docs/LABELS.md describes the formats.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from psl_jax.audio.segments import MIN_SEGMENT_SECONDS, Segmentation, check_hop
from psl_jax.runtime import cli_entry
from psl_jax.runtime.errors import UserError

_WRITTEN = ("parquet", "csv", "npy", "ced", "pretrainedsed", "hf")
_READ = (*_WRITTEN, "sat")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = cli_entry.parser("labels", __doc__ or "")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_import(actions)
    _add_export(actions)
    _add_resegment(actions)
    _add_page(actions)
    flags.FLAGS(arguments[:1])  # absl's own, which nobody gives here, count as read
    if arguments[1:2] == ["cut"]:
        parser.error("the action cut is now called resegment: psl-jax labels resegment")
    return parser.parse_args(arguments[1:])


def _action(actions: Any, name: str, about: str, first: tuple[str, str]) -> Any:
    parser = actions.add_parser(name, help=about, description=about)
    parser.add_argument("source", metavar=first[0], help=first[1])
    parser.add_argument("data", metavar="DATA", help="folder of a prepared data set")
    parser.add_argument(
        "--split", default="balanced", help="split that the labels are of (default: balanced)"
    )
    return parser.add_argument


def _add_format(add: Any, formats: Sequence[str]) -> None:
    add("--format", choices=formats, help="format of the label file (default: by its suffix)")
    add(
        "--values",
        choices=("probabilities", "logits"),
        help="values in the label file (default: logits in npy and pretrainedsed, else "
        "probabilities)",
    )
    add(
        "--pool",
        choices=("mean", "max"),
        help="how frames become a segment, or segments a clip (default: mean in import; export "
        "needs it where a clip has several segments and the file one row)",
    )


def _add_segments(add: Any, required: bool = True) -> None:
    need = "required" if required else "required for a file"
    add(
        "--segment_seconds",
        type=float,
        required=required,
        metavar="S",
        help=f"length of the segments that get labels, in seconds ({need})",
    )
    add(
        "--hop_seconds",
        type=float,
        metavar="S",
        help="seconds from the start of one segment to the start of the next (default: the length "
        "of a segment)",
    )
    add(
        "--shortest_segment_seconds",
        type=float,
        default=MIN_SEGMENT_SECONDS,
        metavar="S",
        help="shortest remainder at the end of a clip, in seconds, that becomes a segment "
        f"(default: {MIN_SEGMENT_SECONDS:g})",
    )


def _add_import(actions: Any) -> None:
    about = ("FILE", "label file, folder of --format=hf, or soft labels of an earlier version")
    add = _action(actions, "import", "Reads a label file.", about)
    _add_format(add, _READ)
    _add_segments(add, required=False)
    add("--out", required=True, metavar="DIR", help="folder for the labels (required)")
    add(
        "--classes",
        metavar="CSV",
        help="CSV of the classes (default: as the label file names them)",
    )
    add(
        "--index",
        metavar="FILE",
        help="file with the names of the rows (default: where the format has them)",
    )
    add(
        "--fill",
        choices=("mean", "half", "zero"),
        help="ced: value of the classes that a row leaves out: mean, the lowest kept value divided "
        "by their number; half of the lowest kept value; or zero (default: mean)",
    )
    add(
        "--unmapped",
        choices=("error", "weak"),
        default="error",
        help="what happens to classes that the file lacks: an error, or their weak labels "
        "(default: error)",
    )
    add(
        "--missing",
        choices=("error", "weak"),
        default="error",
        help="what happens to segments that the file lacks: an error, or their weak labels "
        "(default: error)",
    )


def _add_export(actions: Any) -> None:
    folder = ("FOLDER", "folder of soft labels")
    add = _action(actions, "export", "Writes soft labels as a label file.", folder)
    _add_format(add, _WRITTEN)
    add(
        "--out",
        required=True,
        metavar="FILE",
        help="label file, or hf: folder, to write (required)",
    )
    add(
        "--audio",
        choices=("embedded", "reference"),
        help="hf: where the audio lies: that of each segment in the rows, or the clips in files to "
        "which the rows refer (default: embedded)",
    )
    add("--top_k", type=int, metavar="K", help="ced: number of classes kept in a row (default: 20)")


def _add_resegment(actions: Any) -> None:
    about = "Turns soft labels of some segments, such as frames, into labels of others."
    add = _action(
        actions, "resegment", about, ("FOLDER", "folder of soft labels, which is not changed")
    )
    _add_segments(add)
    add("--out", required=True, metavar="DIR", help="folder for the new labels (required)")


def _add_page(actions: Any) -> None:
    about = "Writes a page to judge soft labels by ear."
    add = _action(actions, "page", about, ("FOLDER", "folder of soft labels"))
    add("--out", required=True, metavar="HTML", help="page to write (required)")
    add("--samples", type=int, default=50, metavar="N", help="number of clips (default: 50)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the choice (default: 0)")
    add(
        "--choose",
        default="classes",
        choices=("classes", "even"),
        help="how clips are chosen: for each class in turn, or evenly over the split (default: "
        "classes)",
    )


def main(arguments: argparse.Namespace) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every file that it reads
    actions = {"import": _import, "export": _export, "resegment": _resegment, "page": _page}
    actions[arguments.action](arguments)


def _import(arguments: argparse.Namespace) -> None:
    from psl_jax.data.label_manifest import segmentation_of
    from psl_jax.data.source import open_folder
    from psl_jax.label_files import importing, older_folder
    from psl_jax.networks.class_lists import match_classes, read_classes
    from psl_jax.runtime import disk_errors, files

    path, out = pathlib.Path(arguments.source), pathlib.Path(arguments.out)
    if path.is_dir() and arguments.format != "hf":
        source = open_folder(arguments.data, arguments.split)
        disk_errors.check_writable(out, "--out")
        older_folder.convert(path, source.index, out)
        _measure(out, source, segmentation_of(out))
        return
    segmentation = _segmentation(arguments)
    name, form = _format(arguments, path, ("index", "fill", "pool"), "used")
    options = _options(
        arguments,
        form,
        segmentation,
        classes=read_classes(arguments.classes)[0] if arguments.classes else None,
        index=pathlib.Path(arguments.index) if arguments.index else None,
        fill=arguments.fill or "mean",
        pool=arguments.pool or "mean",
    )
    source = open_folder(arguments.data, arguments.split)
    index = source.index
    file = form.read(path, options)
    columns = match_classes(
        file.classes,
        index.classes,
        path,
        unmapped=arguments.unmapped,
        remedy="--unmapped=weak lets them keep their weak labels",
    )
    disk_errors.check_writable(out, "--out")
    paths = form.files(path, options)
    origin = {
        "kind": "imported",
        "format": name,
        "files": [p.name for p in paths],
        "sha256": importing.compute_sha256(paths),
        "classes": files.json_digest(list(file.classes)),
        "unmapped": arguments.unmapped,
        "missing": arguments.missing,
        **form.settings(options),
    }
    uses_weak = "weak" in (arguments.unmapped, arguments.missing)
    result = importing.import_labels(
        file,
        path,
        index=index,
        segmentation=segmentation,
        class_columns=columns,
        directory=out,
        open_writer=lambda: _make_writer(out, source, segmentation, origin, uses_weak),
        fill_missing=arguments.missing == "weak",
    )
    print("\n".join(result.summary(path, len(index))))
    _measure(out, source, segmentation)


def _segmentation(arguments: argparse.Namespace) -> Segmentation:
    """The segments that a file is read into."""
    if arguments.segment_seconds is None:
        raise UserError("--segment_seconds: how long are the segments that are to have labels?")
    for option in ("segment_seconds", "hop_seconds"):
        seconds = getattr(arguments, option)
        if seconds is not None and not 0.05 <= seconds <= 3600:
            raise UserError(f"--{option}={seconds:g}: expected seconds, from 0.05 to 3600")
    shortest = arguments.shortest_segment_seconds
    if not 0 <= shortest <= 3600:
        raise UserError(f"--shortest_segment_seconds={shortest:g}: expected seconds, or 0")
    return Segmentation(arguments.segment_seconds, arguments.hop_seconds, shortest)


def _export(arguments: argparse.Namespace) -> None:
    from psl_jax.data.source import open_folder
    from psl_jax.runtime import disk_errors

    out = pathlib.Path(arguments.out)
    name, form = _format(arguments, out, ("top_k", "pool", "audio"), "written")
    if form.suffix is not None and out.suffix != form.suffix:
        raise UserError(f"--out={out}: expected a name that ends in {form.suffix}")
    top_k = 20 if arguments.top_k is None else arguments.top_k
    if top_k < 1:
        raise UserError(f"--top_k={top_k}: expected 1 or more")
    source = open_folder(arguments.data, arguments.split)
    labels = _open(arguments.source, source)
    disk_errors.check_writable(out.parent, "--out")
    options = _options(
        arguments,
        form,
        labels.segmentation,
        top_k=top_k,
        pool=arguments.pool or "",
        source=source,
        audio=arguments.audio or "embedded",
    )
    written = form.write(out, labels, options)
    print(f"soft labels of {len(labels.index):,} clips as {name} in:")
    for path in written[:5]:
        print(f"  {path}  {path.stat().st_size / 1e6:,.1f} MB")
    if len(written) > 5:
        print(f"  and {len(written) - 5} more files")


def _resegment(arguments: argparse.Namespace) -> None:
    from psl_jax.data.label_manifest import WEAK
    from psl_jax.data.soft_labels import made_with
    from psl_jax.data.source import open_folder
    from psl_jax.label_files import resegment
    from psl_jax.runtime import disk_errors

    out, segmentation = pathlib.Path(arguments.out), _segmentation(arguments)
    if out.resolve() == pathlib.Path(arguments.source).resolve():
        raise UserError("--out is the folder of the labels themselves: give another")
    source = open_folder(arguments.data, arguments.split)
    labels = _open(arguments.source, source)
    resegment.check_no_gaps(labels.segmentation)
    check_hop(segmentation, "--hop_seconds")
    disk_errors.check_writable(out, "--out")
    names = ("segment_seconds", "hop_seconds", "shortest_seconds")
    dtype = labels.manifest.get("dtype", "")
    origin = {
        "kind": "cut",
        "teacher_digest": labels.manifest["teacher_digest"],
        "made_with": made_with(labels),
        "cut_from": {name: labels.manifest[name] for name in names},
    }
    if "origin" in labels.manifest:
        origin["origin"] = labels.manifest["origin"]
    resegment.write_resegmented(
        labels, _make_writer(out, source, segmentation, origin, WEAK in labels.manifest, dtype)
    )
    _measure(out, source, segmentation)


def _page(arguments: argparse.Namespace) -> None:
    from psl_jax.data.source import open_folder
    from psl_jax.reporting import label_page
    from psl_jax.runtime import disk_errors, distributed

    out = pathlib.Path(arguments.out)
    if arguments.samples < 1:
        raise UserError(f"--samples={arguments.samples}: expected 1 or more")
    if arguments.seed < 0:
        raise UserError(f"--seed={arguments.seed}: expected 0 or more")
    distributed.configure()
    source = open_folder(arguments.data, arguments.split)
    labels = _open(arguments.source, source)
    disk_errors.check_writable(out.parent, "--out")
    clips = label_page.choose(source.index, arguments.samples, arguments.seed, arguments.choose)
    rule = label_page.RULES[arguments.choose].format(seed=arguments.seed)
    size = label_page.write_page(out, source, labels, clips, rule).stat().st_size
    print(f"{len(clips)} clips in {out}: {size / 1e6:.1f} MB")
    if size > 30e6:
        print("note: some browsers are slow with so large a page; give fewer --samples")


# --- What the actions share -----------------------------------------------------------------------


def _format(
    arguments: argparse.Namespace, path: pathlib.Path, options: Sequence[str], which: str
) -> tuple[str, Any]:
    """The kind of a file, which must use those of `options` that are given: see `Format`."""
    from psl_jax.label_files.formats import FORMATS

    name = arguments.format or next(
        (name for name, form in FORMATS.items() if path.suffix == form.suffix), None
    )
    if name is None:
        raise UserError(f"{path}: what kind of file? Give --format, one of {', '.join(FORMATS)}")
    for option in options:
        if getattr(arguments, option) is not None and option not in getattr(FORMATS[name], which):
            raise UserError(f"--{option} means nothing for --format={name}; leave it out")
    return name, FORMATS[name]


def _options(arguments: argparse.Namespace, form: Any, segmentation: Any, **more: Any) -> Any:
    from psl_jax.label_files.label_file import Options

    logits = form.logits if arguments.values is None else arguments.values == "logits"
    return Options(logits=logits, segmentation=segmentation, **more)


def _open(folder: str, source: Any) -> Any:
    """The soft labels of a folder, cut as they were made."""
    from psl_jax.data.label_manifest import segmentation_of
    from psl_jax.data.soft_labels import SoftLabels

    return SoftLabels.open(folder, source.index, segmentation_of(folder))


def _make_writer(
    out: pathlib.Path,
    source: Any,
    segmentation: Any,
    origin: dict[str, Any],
    uses_weak_labels: bool,
    dtype: str = "",
) -> Any:
    """Of labels with an origin, which stands for the teacher."""
    from psl_jax.data.label_manifest import LabelRule
    from psl_jax.data.soft_labels import SoftLabelWriter
    from psl_jax.runtime import files

    return SoftLabelWriter(
        out,
        source.index,
        segmentation,
        # Without the names of files; an origin's own origin is in its `teacher_digest`.
        teacher_digest=files.json_digest(
            {k: v for k, v in origin.items() if k not in ("files", "origin")}
        ),
        rule=LabelRule(dtype=dtype),
        origin=origin,
        uses_weak_labels=uses_weak_labels,
    )


def _measure(out: pathlib.Path, source: Any, segmentation: Any) -> None:
    """Tells what the labels are like, as relabel does."""
    from psl_jax.commands import relabel
    from psl_jax.data.soft_labels import SoftLabels

    relabel.tell_quality(SoftLabels.open(out, source.index, segmentation))


if __name__ == "__main__":
    cli_entry.run(main, parse)
