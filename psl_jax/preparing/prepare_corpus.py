"""Makes the builder of a corpus from settings or a command line, and prepares its data once."""

import argparse
import os
from typing import Any

from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.corpora.corpus import Corpus
from psl_jax.data import split_index_files
from psl_jax.data.settings import RECORDED, DataSettings
from psl_jax.preparing import preparation_report
from psl_jax.preparing.builder import ClipBuilder
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.paths import absolute

RECORDED_CORPORA = ("audioset", *RECORDED)

OWN_DATA_OPTIONS = (
    *("clip_seconds", "annotated", "group_by", "num_folds", "label_separator", "columns"),
    *("event_label", "unlabelled"),
)
# Options of the command line that only some corpora have.
OPTIONS_OF: dict[str, tuple[str, ...]] = dict.fromkeys(RECORDED, ("splits",)) | {
    "audioset": ("splits", "labels_dir"),
    "own_data": OWN_DATA_OPTIONS,
}


def prepare(data: DataSettings, workdir: str | os.PathLike[str], quiet: bool = False) -> str:
    """Prepares the corpus that `data` names once; returns its TFDS data directory.

    The records go to `data_dir`, default `<workdir>/data`. Raises UserError for settings or source
    files that cannot be used, and for a full disk.
    """
    if data.corpus == "tfds":
        return _check_existing(data, quiet)
    corpus = _make_corpus_of_settings(data)
    corpus.sample_rate = data.sample_rate
    builder = ClipBuilder(
        corpus,
        data_dir=absolute(data.data_dir or os.path.join(workdir, "data")),
        num_workers=data.num_workers or None,
    )
    existed = builder.is_prepared()
    report = builder.prepare()
    if not quiet:
        print_summary(report, builder.data_dir, existed)
    return builder.data_dir


def print_summary(report: dict[str, Any], data_dir: str | os.PathLike[str], existed: bool) -> None:
    """Prints the clips that a preparation kept and left out."""
    lines = preparation_report.summarize_report(report)
    state = f"prepared {report['made']}, used again" if existed else "prepared"
    print(f"{lines[0]}, {state}: {data_dir}")
    report_path = os.path.join(data_dir, preparation_report.SUMMARY_NAME)
    if existed:  # the whole report was printed when it was made
        for name, split in report["splits"].items():
            print(f"  {name}: {split['clips']} of {split['rows']} clips, {split['hours']:.2f} h")
        if report["problems"]:
            print(
                f"  {len(report['problems'])} problems, told when it was made: {report_path}. To "
                f"prepare what has been mended since, delete {data_dir} first"
            )
        return
    print("\n".join(lines[1:]))
    if report["problems"]:
        print(f"all problems are in {report_path}")


def _make_corpus_of_settings(data: DataSettings) -> Corpus:
    if data.corpus == "soundscapes":
        if data.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"data.sample_rate is {data.sample_rate}: soundscapes are made at {SAMPLE_RATE} Hz"
            )
        from psl_jax.corpora.soundscapes import Soundscapes

        return Soundscapes(data)
    is_own = data.corpus == "own_data"
    if not data.source_dir:
        contents = "your recordings and tables" if is_own else f"{data.corpus}'s files"
        raise UserError(
            f"data.source_dir is empty: give the folder with {contents}, such as "
            "--config.data.source_dir=/path/to/folder"
        )
    options = {name: getattr(data, name) for name in OWN_DATA_OPTIONS if is_own}
    return _make_recorded_corpus(data.corpus, data.source_dir, options)


def _make_recorded_corpus(name: str, source_dir: str, options: dict[str, Any]) -> Corpus:
    from psl_jax.corpora import audioset, own_data, published_corpora

    if name == "own_data":
        return own_data.OwnData(DataSettings(source_dir=source_dir, **options))
    corpora: tuple[Any, ...] = (audioset.AudioSet, *published_corpora.CORPORA)
    make = next(corpus_class for corpus_class in corpora if corpus_class.name == name)
    corpus: Corpus = make(source_dir=source_dir, **options)
    return corpus


def _check_existing(data: DataSettings, quiet: bool) -> str:
    if not data.data_dir:
        raise UserError("data.corpus is 'tfds': data.data_dir must name a prepared TFDS directory")
    data_dir = split_index_files.find_data_dir(os.path.join(data.data_dir, data.data_set))
    names = split_index_files.splits(data_dir)
    classes = split_index_files.class_names(data_dir)
    for split in names:
        split_index_files.shard_paths(data_dir, split)
    if quiet:
        return data_dir
    report = preparation_report.read_report(data_dir)
    if report is not None:
        print_summary(report, data_dir, existed=True)
    else:
        print(f"TFDS data set in {data_dir}: {len(classes)} classes, splits {', '.join(names)}")
    return data_dir


def make_builder(arguments: argparse.Namespace) -> ClipBuilder:
    """Makes the builder of the corpus that the command line names."""
    given = {name: getattr(arguments, name) for name in OPTIONS_OF[arguments.corpus]}
    options = {name: value for name, value in given.items() if value is not None}
    corpus = _make_recorded_corpus(arguments.corpus, arguments.source_dir, options)
    corpus.sample_rate = arguments.sample_rate
    data_dir = absolute(arguments.data_dir)
    return ClipBuilder(corpus, data_dir=data_dir, num_workers=arguments.num_workers)
