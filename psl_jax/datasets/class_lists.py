"""Class lists: CSVs in the form of AudioSet's, and AudioSet's own."""

import os
import pathlib
from functools import cache

from psl_jax.datasets.own_folder import read_classes
from psl_jax.errors import UserError

# AudioSet's class_labels_indices.csv, by Google, under CC BY 4.0: see audioset_classes.NOTICE.
AUDIOSET_CSV = pathlib.Path(__file__).with_name("audioset_classes.csv")


@cache
def audioset_classes() -> tuple[str, ...]:
    """Display names of AudioSet's 527 classes, in label order."""
    return read_class_names(AUDIOSET_CSV)


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The classes of a CSV with the columns `index,mid,display_name` or one column `label`.

    Raises UserError for a file that is not there or of another form.
    """
    try:
        return read_classes(pathlib.Path(path))[0]
    except OSError as error:
        raise UserError(f"cannot read the class list {path}: {error.strerror}") from error
