"""The program `psl-jax COMMAND`, also `python -m psl_jax COMMAND`."""

import ast
import difflib
import importlib
import pathlib
import sys

import psl_jax
from psl_jax.runtime import cli_entry

COMMANDS = (
    *("main", "prepare", "relabel", "labels", "evaluate", "tag", "serve", "export"),
    *("fit", "classes", "thresholds", "review", "publish"),
)
_WITHOUT_BUCKETS = ("labels", "fit", "thresholds", "review", "publish")


def run() -> None:
    """Runs the command that the first argument names. Exit status 2 for none or an unknown one."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help", "help", "--version"):
        text = usage() if name != "--version" else f"psl_jax {psl_jax.__version__}"
        del sys.argv[1:]
        cli_entry.run(lambda _: print(text))
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        told = f"there is no command {name!r}.{hint}\n\n" if name else ""
        print(f"{told}{usage()}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"psl-jax {name}", *sys.argv[2:]]
    command = importlib.import_module(module_of(name))
    if name == "main":
        command.run()
        return
    cli_entry.run(
        command.main,
        command.parse,
        takes_buckets=name not in _WITHOUT_BUCKETS,
        leaves_threads=name in ("serve", "review"),
    )


def module_of(name: str) -> str:
    """The module of a command."""
    return f"psl_jax.{name}" if name == "main" else f"psl_jax.commands.{name}"


def usage() -> str:
    """What commands there are."""
    lines = ["usage: psl-jax COMMAND ..., or psl-jax --version"]
    lines += [f"  {name:<14}{_about(name)}" for name in COMMANDS]
    return "\n".join([*lines, "psl-jax COMMAND --help explains its arguments."])


def _about(name: str) -> str:
    """The first line of a command's docstring, without importing what it needs."""
    path = pathlib.Path(__file__).parents[1] / f"{module_of(name).replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].partition(": python")[0]
