"""Prepares recordings and their labels as a data set, and reports problems.

    psl-jax prepare --corpus audioset --source_dir AUDIO --data_dir DATA

Recordings (files, tars, parquet, HDF5; of any rate and number of channels) become mono TFRecord
clips at 16 or 32 kHz (--sample_rate). docs/DATA.md describes what each corpus should look like. The
same command continues a preparation that was stopped.

Exit status: 0 on success; 1 if more than --max_missing of a split's clips are missing; 2 for wrong
settings; 75 after SIGTERM.
"""

import argparse
from collections.abc import Sequence

from absl import logging

from psl_jax.audio.segments import RATES
from psl_jax.data.settings import DataSettings
from psl_jax.preparing import preparation_report, prepare_corpus
from psl_jax.runtime import cli_entry, settings


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name."""
    parser = cli_entry.parser("prepare", __doc__ or "")
    _add_options(parser)
    _add_corpus_options(parser)
    result = parser.parse_args(arguments[1:])
    own_options = prepare_corpus.OPTIONS_OF[result.corpus]
    for name in sorted(set().union(*prepare_corpus.OPTIONS_OF.values()) - set(own_options)):
        if getattr(result, name) is not None:
            parser.error(
                f"--{name} is no option of {result.corpus}, which has "
                + ", ".join(f"--{option}" for option in own_options)
            )
    return result


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--corpus",
        required=True,
        choices=prepare_corpus.RECORDED_CORPORA,
        help="corpus to prepare; own_data: your own recordings (required)",
    )
    about = "folder of the recordings and their label tables (required)"
    add("--source_dir", required=True, metavar="DIR", help=about)
    add(
        "--data_dir",
        required=True,
        metavar="DIR",
        help="folder for prepared data; the data set goes into CORPUS/DIGEST/1.0.0 below it, by "
        "a digest of the settings (required)",
    )
    add(
        "--max_missing",
        type=cli_entry.make_number_reader("max_missing", float, least=0, most=1),
        metavar="SHARE",
        default=0.1,
        help="share of a split's clips, 0 to 1, that may be missing or unreadable; above it the "
        "exit status is 1, although the data set is written (default: 0.1)",
    )
    add(
        "--sample_rate",
        type=int,
        choices=RATES,
        default=RATES[0],
        help="rate of the clips in Hz: 16000, or 32000 for networks trained at 32 kHz, such as "
        "mn04 (default: 16000)",
    )
    about = "clips decoded at a time (default: one per core)"
    workers = cli_entry.make_number_reader("num_workers", int, least=1)
    add("--num_workers", type=workers, metavar="N", help=about)
    add(
        "--beam_options",
        metavar="OPTIONS",
        help="Apache Beam options, in one quoted string, to prepare on a cluster (default: this "
        "machine, without Beam)",
    )


def _add_corpus_options(parser: argparse.ArgumentParser) -> None:
    """Adds what only some corpora have; None stands for the corpus's default."""
    add = parser.add_argument_group("published corpora (not own_data)").add_argument
    add(
        "--splits",
        metavar="A,B",
        type=lambda text: [name for name in map(str.strip, text.split(",")) if name],
        help="splits to prepare, separated by commas (default: all whose tables are there)",
    )
    parser.add_argument_group("audioset").add_argument(
        "--labels_dir",
        metavar="DIR",
        help="folder of the segment CSVs and the strong labels (default: --source_dir)",
    )
    group = parser.add_argument_group("own_data")
    for name, info in settings.list_settings(DataSettings):
        if name in prepare_corpus.OWN_DATA_OPTIONS:  # None where not given: as config.data has it
            # The only switch is `unlabelled`.
            shown = "leave them out" if info.default is False else info.default
            shown = "none" if shown == "" else shown
            text = cli_entry.add_default(info.help.removeprefix("own_data: "), shown)
            cli_entry.add_setting(group, DataSettings, name, default=None, help=text)


def main(arguments: argparse.Namespace) -> int:
    """Prepares, and prints the report; returns the exit status."""
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every file that it reads
    builder = prepare_corpus.make_builder(arguments)
    existed = builder.is_prepared()
    report = builder.prepare(arguments.beam_options)
    prepare_corpus.print_summary(report, builder.data_dir, existed)
    limit = arguments.max_missing
    above = [
        f"{name} ({100 * share:.2f} %)"
        for name, split in report["splits"].items()
        if (share := preparation_report.compute_lost_share(split)) > limit
    ]
    if above:
        print(
            f"the data set is there and can be used, in {builder.data_dir}. The exit status is 1, "
            f"as more clips are missing than --max_missing={limit:g} allows: {', '.join(above)}"
        )
    return 1 if above else 0
