"""Turns what the libraries of the `corpora` extra raise into plain words."""

import contextlib
import pathlib
from collections.abc import Iterator

from psl_jax.runtime.errors import MissingPackageError, UserError


@contextlib.contextmanager
def plain_errors(path: pathlib.Path, library: str) -> Iterator[None]:
    """Turns a missing library, and a file that is missing or damaged, into a UserError."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise MissingPackageError(path, library, "corpora") from error
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        # pyarrow's errors are OSErrors and ValueErrors, h5py's OSErrors and KeyErrors; an HDF5
        # group where an array is expected has no shape.
        raise UserError(f"{path} is damaged, or no such file as expected: {error}") from error


def check_replaced(path: pathlib.Path, column: str) -> None:
    """Raises UserError where a Parquet file of another kind would be overwritten.

    Tables of labels, and CED's tables of rows, have the same suffix. column: the name of a column
    that only tables of the same kind have.
    """
    if not path.exists():
        return
    with plain_errors(path, "pyarrow"):
        import pyarrow.parquet

        columns = pyarrow.parquet.read_schema(path).names
    if column not in columns:
        raise UserError(
            f"{path} is there already and holds something else ({', '.join(columns[:4])}): choose "
            "another --out, or delete it"
        )
