"""Finds config files: by their path, or by the name of one that comes with the package."""

import difflib
import os
import pathlib

from psl_jax.runtime.errors import UserError

_PACKAGE = pathlib.Path(__file__).parent
# Inside the package where it was installed, beside it in a clone.
_IS_CLONE = (_PACKAGE.parent / "pyproject.toml").exists()
_FOLDER = _PACKAGE.parent / "configs" if _IS_CLONE else _PACKAGE / "configs"


def find(name: str) -> str:
    """The path of a config: `name` itself where such a file is, else one that comes with psl_jax.

    A part after ":" is the config's argument and stays. Raises UserError, naming the nearest, where
    there is no such config.
    """
    path, colon, argument = name.partition(":")
    if os.path.exists(path):
        return name
    files = {file.stem: file for file in _FOLDER.glob("*.py")}
    wanted = path.removesuffix(".py")
    if os.path.dirname(path) in ("", "configs"):
        wanted = os.path.basename(wanted)
    if wanted in files:
        return f"{files[wanted]}{colon}{argument}"
    near = difflib.get_close_matches(os.path.basename(wanted), files, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"there is no config {path}: neither a file nor one that comes with psl_jax "
        f"({', '.join(sorted(files))}).{hint}"
    )
