"""Trains and evaluates an experiment, or a suite of experiments.

    psl-jax main --config configs/psl2s.py --workdir runs/psl2s --config.train.epochs=10

An experiment has six stages. It prepares the data, relabels them with the teacher (students on soft
labels only), trains the network, averages its best checkpoints, evaluates the result, and writes a
report. A suite runs several experiments, teachers first, and compares them in one table. Everything
goes into the run folder. The same command continues a run that was stopped: finished stages are
skipped.

Below, "the paper" is Dinkel et al., "Pseudo strong labels for large scale weakly supervised audio
tagging" (ICASSP 2022), "the published code" is that of its authors, and "our choice" is a value
that neither gives.
"""

import argparse
import ast
import difflib
import itertools
import os
import pathlib
import runpy
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from psl_jax import config as config_lib
from psl_jax import settings_reference
from psl_jax.runtime import cli_entry, huge_pages
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_files import Stage
from psl_jax.runtime.settings import check, flatten

_SETTING = "--config."
_CONFIG_ERRORS = (  # of a file that is none, or has mistakes
    *(AssertionError, AttributeError, ImportError, LookupError, NameError, OSError),
    *(SyntaxError, TypeError, ValueError),
)
_SWITCH = {"true": True, "1": True, "false": False, "0": False}

_PACKAGE = pathlib.Path(__file__).parent
# Inside the package where it was installed, beside it in a clone.
_IS_CLONE = (_PACKAGE.parent / "pyproject.toml").exists()
_FOLDER = _PACKAGE.parent / "configs" if _IS_CLONE else _PACKAGE / "configs"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which begins with the program's name; `config` is the changed config."""
    settings = "settings, --config.SETTING=VALUE (docs/SETTINGS.md):"
    parser = cli_entry.parser(
        "main", f"{__doc__}\n\n{settings}\n\n{settings_reference.list_settings()}"
    )
    parser.usage = "psl-jax main --config CONFIG [OPTION ...] [--config.SETTING=VALUE ...]"
    parser.allow_abbrev = False  # --seed is none of --seeds
    add = parser.add_argument
    add(
        "--config",
        required=True,
        help="config file or name, with a variant after a colon where it has one: quickstart, "
        "own_data:mn04, psl2s:code; configs/ has all (required)",
    )
    add("--workdir", metavar="DIR", help="run folder (default: runs/ and the config's name)")
    add(
        "--stage",
        choices=[stage.value for stage in Stage],
        default=Stage.REPORT.value,
        help="stage after which to stop; unfinished stages before it run too (default: report, "
        "the last)",
    )
    add(
        "--start_afresh",
        nargs="?",
        const="true",
        default="false",
        choices=("true", "false"),
        help="delete and redo experiments whose results belong to other settings, data or "
        "teacher; the rest continue (default: false: stop with an error)",
    )
    add(
        "--seeds",
        metavar="N,N",
        help="random seeds; the config runs once for each, and a table gives means over them; "
        "each is 0 or more, such as 0,1,2 (default: config.seed alone)",
    )
    add(
        "--folds",
        metavar="N,N",
        help="cross-validation: folds to evaluate on, each after training on all others, such as "
        "1,2, or all; for own recordings and data with splits fold1, fold2, ... (default: none)",
    )
    cli_entry.add_processes(parser)
    for before, word in itertools.pairwise(arguments):
        takes_no_word = before.startswith((_SETTING, "--start_afresh")) and "=" not in before
        if takes_no_word and not word.startswith("-"):
            raise UserError(f"{before} {word}: give {before}={word}")
    changes = [argument for argument in arguments[1:] if argument.startswith(_SETTING)]
    parsed = parser.parse_args([a for a in arguments[1:] if not a.startswith(_SETTING)])
    parsed.config = _load_config(parsed.config)
    for argument in changes:
        _change(parsed.config, argument)
    for line in _not_reached(parsed.config, changes):
        print(line)
    return parsed


def main(arguments: argparse.Namespace) -> None:
    """Runs the experiments up to the stage that is asked for."""
    from psl_jax.experiments import suite
    from psl_jax.runtime import distributed, run_files

    config, start_afresh = arguments.config, arguments.start_afresh == "true"
    distributed.configure()
    distributed.join_processes(
        arguments.distributed,
        arguments.coordinator_address,
        arguments.num_processes,
        arguments.process_id,
        dict(flatten(config.to_dict()))
        | {name: getattr(arguments, name) for name in ("stage", "start_afresh", "seeds", "folds")},
    )
    workdir = arguments.workdir or os.path.join("runs", config.name)
    seeds = _read_numbers("seeds", arguments.seeds, "different numbers, such as 0,1,2")
    for seed in seeds or ():
        check("seeds", seed, config_lib.KNOWN["seed"], "--")
    folds: list[int] | None = []
    if arguments.folds != "all":
        folds = _read_numbers("folds", arguments.folds, "all, or different numbers, such as 1,2,3")
    with run_files.claim_folder(workdir, "--workdir"):
        suite.run(
            config,
            workdir,
            seeds=seeds,
            folds=folds,
            last_stage=Stage(arguments.stage),
            start_afresh=start_afresh,
        )


def _read_numbers(name: str, text: str | None, expected: str) -> list[int] | None:
    """The numbers of an option such as 0,1,2; None where it is not given. Raises UserError."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    numbers = [int(word) for word in words if word.isdecimal()]
    if len(set(numbers)) < len(words):
        raise UserError(f"--{name}={text}: expected {expected}")
    return numbers


def _load_config(name: str) -> ConfigDict:
    """The config of a file or name; what stands after a colon is the argument of its function."""
    path, *variant = find_config(name).split(":", 1)
    try:
        functions = runpy.run_path(path)
        if "get_config" not in functions:
            raise LookupError("it has no get_config()")
        config = functions["get_config"](*variant)
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config() gives {config!r:.40}, expected a ConfigDict")
    except _CONFIG_ERRORS as error:
        raise UserError(f"cannot read the config {path}: {error}") from error
    return config.lock()


def _change(config: ConfigDict, argument: str) -> None:
    """Takes in --config.KEY=VALUE or --config.experiments.NAME.KEY=VALUE. Raises UserError."""
    path, equals, text = argument.removeprefix(_SETTING).partition("=")
    if not equals:
        raise UserError(f"{argument}: expected a value, as {argument}=VALUE")
    target, key = config, path
    if path.startswith("experiments."):
        _, name, key = [*path.split(".", 2), ""][:3]
        if name not in config.experiments:
            names = ", ".join(sorted(config.experiments)) or "none"
            raise UserError(f"{argument}: the config has no experiment {name!r}; it has {names}")
        target = config.experiments[name]
    if key not in config_lib.KNOWN:
        raise UserError(f"{argument}: {config_lib.unknown_key_message(key)}")
    setting = config_lib.KNOWN[key]
    changes: Any = _read(text, setting.type)
    check(path, changes, setting)
    for part in reversed(key.split(".")):
        changes = {part: changes}
    config_lib.set_nested(target, changes)


def _read(text: str, setting_type: Any) -> Any:
    """The value that `text` stands for; the text itself where it is none."""
    if setting_type is str:
        return text
    try:
        if setting_type in (int, float):
            return setting_type(text)
        if setting_type is bool:
            return _SWITCH.get(text.lower(), text)
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _not_reached(config: ConfigDict, changes: list[str]) -> Iterator[str]:
    """Tells which experiments have a value of their own of what the command line gives for all."""
    for argument in changes:
        key = argument.removeprefix(_SETTING).split("=")[0]
        for name, experiment in sorted(config.experiments.items()):
            value = dict(flatten(experiment.to_dict())).get(key, "")
            own_setting = f"{_SETTING}experiments.{name}.{key}="
            # "": the experiment goes without, as "from scratch" does
            if value != "" and not any(change.startswith(own_setting) for change in changes):
                yield (
                    f"note: {argument} does not reach the experiment {name!r}, which has "
                    f"{key}={value}; {own_setting}VALUE does"
                )


def find_config(name: str) -> str:
    """The path of a config: `name` itself where such a file is, else one that comes with psl_jax.

    A part after ":" is the config's argument and stays. Raises UserError for none.
    """
    path, colon, argument = name.partition(":")
    if os.path.exists(path) and not os.path.isdir(path):
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


def run() -> None:
    """Runs the command, with huge pages where they help."""
    if huge_pages.is_command("main"):
        huge_pages.restart_with_them()
    cli_entry.run(main, parse, takes_buckets=True)


if __name__ == "__main__":
    run()
