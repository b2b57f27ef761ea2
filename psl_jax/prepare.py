"""Makes a data set, once, and says what came of it.

    python -m psl_jax.prepare --corpus audioset --source_dir AUDIO --data_dir DATA
    python -m psl_jax.prepare --describe DATA

Recordings as they come (files, tars, parquet, HDF5; any rate and channels) become checked TFRecord
clips of 16 kHz mono; docs/DATA.md says what each corpus should look like. Stopped or killed, it
leaves nothing that looks whole; the same command makes it whole, and does nothing where it is.

Exit status: 0; 1 if more than --max_missing of a split's clips are not there; 2 for wrong settings.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags, logging

from psl_jax import entry
from psl_jax.datasets import index as index_lib
from psl_jax.datasets import preparation_report
from psl_jax.datasets.clip_builder import ClipBuilder
from psl_jax.errors import UserError

CORPORA = ("soundscapes", "own_data", "tfds")
RECORDED_CORPORA = ("audioset", "fsd50k", "fsdkaggle2018", "fsdkaggle2019", "own_data")


def prepare(
    data: ml_collections.ConfigDict, workdir: str | os.PathLike, quiet: bool = False
) -> str:
    """Prepares the corpus that `data` names and returns its TFDS data directory.

    Does nothing but check where the data set with the very same settings is there whole; other
    settings go to a folder of their own. A killed preparation leaves nothing that looks whole.

    Args:
      data: `corpus` is "soundscapes" (full_clips, balanced_clips, eval_clips, seed,
        missing_labels), "own_data" (source_dir, max_clip_seconds, label_separator) or "tfds"
        (data_dir is a prepared TFDS directory). For the first two, `data_dir` is where to put
        the records (default `<workdir>/data`) and `num_workers` how many clips to load at once
        (default, also for 0: one a core).
      workdir: the run folder.
      quiet: print no summary.

    Raises:
      UserError: settings or source files that cannot be used, or a full disk.
    """
    if data.corpus == "tfds":
        return _check_existing(data, quiet)
    builder = _builder(data, workdir)
    existed = builder.is_prepared()
    report = builder.prepare()
    if not quiet:
        print_summary(report, builder.data_dir, existed)
    return os.fspath(builder.data_dir)


def print_summary(report: dict[str, Any], data_dir: str | os.PathLike, existed: bool) -> None:
    """Prints what a preparation kept and left out."""
    lines = preparation_report.summary_lines(report)
    when = f"prepared {report['made']}, used again" if existed else "prepared"
    print(f"{lines[0]}, {when}: {data_dir}")
    print("\n".join(lines[1:]))
    if report["problems"]:
        print(f"all problems are in {os.path.join(data_dir, preparation_report.REPORT_NAME)}")


def _builder(data: ml_collections.ConfigDict, workdir: str | os.PathLike) -> ClipBuilder:
    common: dict[str, Any] = {
        "data_dir": os.path.abspath(data.data_dir or os.path.join(workdir, "data")),
        "num_workers": data.num_workers or None,
    }
    if data.corpus == "soundscapes":
        from psl_jax.datasets.soundscapes import SceneSettings, Soundscapes

        return Soundscapes(
            full_clips=data.full_clips,
            balanced_clips=data.balanced_clips,
            eval_clips=data.eval_clips,
            scenes=SceneSettings(seed=data.seed, missing_labels=data.missing_labels),
            **common,
        )
    if data.corpus == "own_data":
        from psl_jax.datasets.own_data import OwnData

        if not data.source_dir:
            raise UserError(
                "data.source_dir is empty: give the folder with your CSVs and audio files, such as "
                "--config.data.source_dir=/path/to/folder"
            )
        return OwnData(
            source_dir=data.source_dir,
            max_clip_seconds=data.max_clip_seconds,
            label_separator=data.label_separator,
            **common,
        )
    raise UserError(f"data.corpus is {data.corpus!r}, expected one of {', '.join(CORPORA)}")


def _check_existing(data: ml_collections.ConfigDict, quiet: bool) -> str:
    if not data.data_dir:
        raise UserError("data.corpus is 'tfds': data.data_dir must name a prepared TFDS directory")
    data_dir = index_lib.find_data_dir(data.data_dir)
    names = index_lib.splits(data_dir)
    classes = index_lib.class_names(data_dir)
    for split in names:
        index_lib.shard_paths(data_dir, split)
    if quiet:
        return data_dir
    report = preparation_report.read_report(data_dir)
    if report is not None:
        print_summary(report, data_dir, existed=True)
    else:
        print(f"TFDS data set in {data_dir}: {len(classes)} classes, splits {', '.join(names)}")
    return data_dir


# --- The command line -----------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m psl_jax.prepare",
        description=about,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--describe", metavar="DIR", help="describe a prepared data set and write its HTML page")
    add("--corpus", choices=RECORDED_CORPORA)
    add("--source_dir", metavar="DIR", help="the recordings, and the corpus's tables")
    add("--data_dir", metavar="DIR", help="where to put the records, in a folder of their own")
    add("--splits", metavar="A,B", default="", help="default: those whose tables are there")
    add("--max_missing", type=float, metavar="SHARE", default=0.1, help="default: 0.1")
    add("--max_clip_seconds", type=float, metavar="S", help="default: the corpus's longest")
    add("--num_workers", type=int, metavar="N", help="clips loaded at once; default: one a core")
    add("--beam_options", metavar="OPTIONS", help='a Beam pipeline, such as "--runner=FlinkRunner"')
    group = parser.add_argument_group("audioset")
    add = group.add_argument
    add("--labels_dir", metavar="DIR", help="segment CSVs, strong labels; default: --source_dir")
    add("--seed", type=int, default=0, help="of the choice of aud300h (default: 0)")
    add("--hdf5_rate", type=int, metavar="HZ", help="of HDF5 waveforms, where they do not say it")
    group = parser.add_argument_group("fsdkaggle2019")
    group.add_argument("--include_known_bad", action="store_true", help="keep six bad clips")
    group = parser.add_argument_group("own_data")
    group.add_argument("--label_separator", default=";", help="between labels (default: ';')")
    flags.FLAGS(arguments[:1])  # absl wants its own flags parsed, and has none here
    result = parser.parse_args(arguments[1:])
    if not result.describe and not (result.corpus and result.source_dir and result.data_dir):
        parser.error("give --corpus, --source_dir and --data_dir, or --describe")
    return result


def main(arguments: argparse.Namespace) -> int:
    """Prepares or describes; returns the exit status."""
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every file that it reads
    if arguments.describe:
        from psl_jax import describe

        data_dir = index_lib.find_data_dir(arguments.describe)
        print("\n".join(describe.describe(data_dir)))
        print(f"page: {describe.write_page(data_dir)}")
        return 0
    builder = corpus_builder(arguments)
    existed = builder.is_prepared()
    report = builder.prepare(arguments.beam_options)
    print_summary(report, builder.data_dir, existed)
    splits = report["splits"].items()
    lost = {name: preparation_report.lost_share(split) for name, split in splits}
    if existed and any(lost.values()):
        print(f"To look for the clips that were not there, delete {builder.data_dir} first.")
    limit = arguments.max_missing
    above = [f"{name} ({100 * share:.2f} %)" for name, share in lost.items() if share > limit]
    if above:
        print(f"more clips are missing than --max_missing={limit:g} allows: {', '.join(above)}")
    return 1 if above else 0


def corpus_builder(arguments: argparse.Namespace) -> ClipBuilder:
    """The builder of the corpus that the command line names."""
    settings: dict[str, Any] = {
        "data_dir": os.path.abspath(arguments.data_dir),
        "source_dir": arguments.source_dir,
        "num_workers": arguments.num_workers,
    }
    if arguments.max_clip_seconds is not None:
        settings["max_clip_seconds"] = arguments.max_clip_seconds
    if arguments.corpus == "own_data":
        from psl_jax.datasets.own_data import OwnData

        return OwnData(**settings, label_separator=arguments.label_separator)
    settings["splits"] = [name for name in map(str.strip, arguments.splits.split(",")) if name]
    if arguments.corpus == "audioset":
        from psl_jax.datasets.audioset import AudioSet

        names = ("labels_dir", "seed", "hdf5_rate")
        return AudioSet(**settings, **{name: getattr(arguments, name) for name in names})
    from psl_jax.datasets.fsd50k import Fsd50k
    from psl_jax.datasets.fsdkaggle2018 import FsdKaggle2018
    from psl_jax.datasets.fsdkaggle2019 import FsdKaggle2019

    if arguments.corpus == "fsdkaggle2019":
        return FsdKaggle2019(**settings, include_known_bad=arguments.include_known_bad)
    return (Fsd50k if arguments.corpus == "fsd50k" else FsdKaggle2018)(**settings)


if __name__ == "__main__":
    entry.run(main, parse)
