"""Lists the formats of label files by name."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from psl_jax.data.soft_labels import SoftLabels
from psl_jax.label_files import (
    efficientat_format,
    huggingface_folder,
    pretrainedsed_format,
    sat_and_ced_formats,
    table_formats,
)
from psl_jax.label_files.label_file import LabelFile, Options


class Format(NamedTuple):
    """A format of label files.

    Attributes:
      suffix: of its files; None: a folder.
      open: opens a file for reading.
      write: writes soft labels and returns the files; None where a format is only read.
      has_logits: whether its values are logits, if the user does not say.
      read_options, write_options: options that only some formats have.
    """

    suffix: str | None
    open: Callable[[pathlib.Path, Options], LabelFile]
    write: Callable[[pathlib.Path, SoftLabels, Options], list[pathlib.Path]] | None
    has_logits: bool = False
    read_options: tuple[str, ...] = ()
    write_options: tuple[str, ...] = ()


FORMATS = {
    "parquet": Format(".parquet", table_formats.open_parquet, table_formats.write_parquet),
    "csv": Format(".csv", table_formats.open_csv, table_formats.write_csv),
    "npy": Format(
        ".npy", efficientat_format.open_file, efficientat_format.write, True, ("index",), ("pool",)
    ),
    "ced": Format(
        ".h5",
        sat_and_ced_formats.open_ced,
        sat_and_ced_formats.write_ced,
        read_options=("index", "fill"),
        write_options=("top_k",),
    ),
    "pretrainedsed": Format(
        ".hdf5", pretrainedsed_format.open_file, pretrainedsed_format.write, True, ("pool",)
    ),
    "sat": Format(".parquet", sat_and_ced_formats.open_sat, None),
    "hf": Format(
        None, huggingface_folder.open_folder, huggingface_folder.write, write_options=("audio",)
    ),
}
