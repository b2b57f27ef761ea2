"""Lists the formats of label files by name."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

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
      has_logits: whether its values are logits, if the user does not say.
      has_index: whether another file says which clip each row is.
    """

    suffix: str | None
    open: Callable[[pathlib.Path, Options], LabelFile]
    has_logits: bool = False
    has_index: bool = False


FORMATS = {
    "parquet": Format(".parquet", table_formats.open_parquet),
    "csv": Format(".csv", table_formats.open_csv),
    "npy": Format(".npy", efficientat_format.open_file, has_logits=True, has_index=True),
    "ced": Format(".h5", sat_and_ced_formats.open_ced, has_index=True),
    "pretrainedsed": Format(".hdf5", pretrainedsed_format.open_file, has_logits=True),
    "sat": Format(".parquet", sat_and_ced_formats.open_sat),
    "hf": Format(None, huggingface_folder.open_folder),
}
