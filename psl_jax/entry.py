"""What all entry points do: errors that a user can mend are one message, not a traceback."""

import sys
from collections.abc import Callable

from absl import app

from psl_jax.errors import UserError


def run(main: Callable, parse_flags: Callable | None = None) -> None:
    """Runs `main` with absl's flags. Exit status 2 for a UserError, 130 when interrupted."""
    try:
        if parse_flags is None:
            app.run(main)
        else:
            app.run(main, flags_parser=parse_flags)
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
