"""Packs data into plain arrays, from which an experiment runs where only JAX is installed.

    python -m psl_jax.pack --source_dir FOLDER --out DIR    # as for configs/own_data.py
    python -m psl_jax.pack --data_dir PREPARED --out DIR    # needs TensorFlow

    python -m psl_jax.main --config configs/own_data.py --config.data.corpus=packed \
        --config.data.data_dir=DIR

writes DIR/SPLIT.npz for each split: the audio (int16, 16 kHz) end to end, lengths, labels and
events.
"""

import os
import pathlib
from collections.abc import Iterator

from absl import flags

from psl_jax.data.packed_source import pack
from psl_jax.data.source import Source
from psl_jax.preparing.folder_sources import folder_sources
from psl_jax.runtime import cli_entry, disk_errors
from psl_jax.runtime.errors import UserError

_SOURCE_DIR = flags.DEFINE_string("source_dir", None, "Folder with the CSVs and the audio files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared (TFDS) data set.")
_OUT = flags.DEFINE_string("out", None, "Where to write the packed splits.", required=True)
_MAX_SECONDS = flags.DEFINE_float("max_clip_seconds", 10.0, "Longer files are cut, and reported.")
_SEPARATOR = flags.DEFINE_string("label_separator", ";", "Between the labels in the CSVs.")


def _prepared_sources(data_dir: str) -> Iterator[tuple[str, Source]]:
    from psl_jax.data import index_files as index_files

    for split in index_files.splits(data_dir):
        yield split, Source.open(data_dir, split)


def main(_) -> None:
    folder, prepared = _SOURCE_DIR.value, _DATA_DIR.value
    if folder and not prepared:
        sources = folder_sources(folder, _MAX_SECONDS.value, _SEPARATOR.value, os.cpu_count())
    elif prepared and not folder:
        sources = _prepared_sources(prepared)
    else:
        raise UserError("give either --source_dir or --data_dir")
    disk_errors.check_writable(_OUT.value, "--out")
    for split, source in sources:
        path = pathlib.Path(_OUT.value) / f"{split}.npz"
        pack(source, path)
        print(f"{split}: {len(source.index)} clips, {source.index.hours:.2f} h in {path}")


if __name__ == "__main__":
    cli_entry.run(main)
