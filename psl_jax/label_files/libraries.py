"""Libraries of the `corpora` extra, imported when used, and what they raise in plain words."""

import contextlib
import pathlib
from collections.abc import Iterator

from psl_jax.runtime.disk import plain_disk_errors
from psl_jax.runtime.errors import UserError


@contextlib.contextmanager
def plain_errors(path: pathlib.Path, library: str) -> Iterator[None]:
    """Turns a missing library, and a file that is missing or damaged, into a UserError."""
    try:
        with plain_disk_errors(path, "Run the same command again."):
            yield
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise UserError(f"{path} needs {library}: pip install 'psl_jax[corpora]'") from error
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, KeyError, ValueError, TypeError) as error:
        # pyarrow's errors are OSErrors and ValueErrors, h5py's OSErrors and KeyErrors.
        raise UserError(f"{path} is damaged, or no such file as expected: {error}") from error
