"""Makes the data set of an experiment, once, and says what came of it."""

import os
from typing import Any

import ml_collections

from psl_jax import files
from psl_jax.datasets import index as index_lib
from psl_jax.datasets.clip_builder import REPORT_NAME, ClipBuilder
from psl_jax.datasets.problems import summarize
from psl_jax.errors import UserError

CORPORA = ("soundscapes", "own_data", "tfds")


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
    when = f"prepared {report['made']}, used again" if existed else "prepared"
    print(f"{report['corpus']}, {report['classes']} classes, {when}: {data_dir}")
    for name, split in report["splits"].items():
        counts = split["clips_per_class"]
        print(
            f"  {name}: {split['clips']} of {split['rows']} clips, {split['hours']:.2f} h, clips "
            f"per class {counts['min']} / {counts['median']:g} / {counts['max']} "
            "(min / median / max)" + (f", {split['events']} events" if split["events"] else "")
        )
    if report["problems"]:
        print(f"problems (all of them in {os.path.join(data_dir, REPORT_NAME)}):")
        print("\n".join(summarize(report["problems"])))


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
    data_dir = os.path.abspath(data.data_dir)
    names = index_lib.splits(data_dir)
    classes = index_lib.class_names(data_dir)
    for split in names:
        index_lib.shard_paths(data_dir, split)
    if quiet:
        return data_dir
    if os.path.exists(os.path.join(data_dir, REPORT_NAME)):
        print_summary(files.read_json(os.path.join(data_dir, REPORT_NAME)), data_dir, existed=True)
    else:
        print(f"TFDS data set in {data_dir}: {len(classes)} classes, splits {', '.join(names)}")
    return data_dir
