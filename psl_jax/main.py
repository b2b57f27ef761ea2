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

import ast
import difflib
import itertools
import os
import pathlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

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
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder, for all results (default: runs/ and the config's name)."
)
_STAGE = flags.DEFINE_enum_class(
    "stage",
    Stage.REPORT,
    Stage,
    "Stage after which to stop; unfinished stages before it run too (default: report, the last).",
)
_AFRESH = flags.DEFINE_bool(
    "start_afresh",
    False,
    "Delete and redo experiments whose results belong to other settings, data or teacher; the rest "
    "continue (default: false: stop with an error).",
)
_SEEDS = flags.DEFINE_string(
    "seeds",
    None,
    "Random seeds; the config runs once for each, and a table gives means over them; each is 0 or "
    "more, such as 0,1,2 (default: config.seed alone).",
)
_FOLDS = flags.DEFINE_string(
    "folds",
    None,
    "Cross-validation, for own recordings and data with splits fold1, fold2, ...: numbers of the "
    "folds to evaluate on, each after training on all others, such as 1,2; or all (default: none).",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "This is one of several processes that train together. On a TPU pod and in Slurm and MPI jobs "
    "they find each other; elsewhere give --coordinator_address, --num_processes and --process_id "
    "(default: false).",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Address HOST:PORT where process 0 listens (default: that of the pod or job).",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes (default: that of the pod or job)."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0 (default: that of the pod or job)."
)
_FLAGS = (
    *(_WORKDIR, _STAGE, _AFRESH, _SEEDS, _FOLDS),
    *(_DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID),
)

_PACKAGE = pathlib.Path(__file__).parent
# Inside the package where it was installed, beside it in a clone.
_IS_CLONE = (_PACKAGE.parent / "pyproject.toml").exists()
_FOLDER = _PACKAGE.parent / "configs" if _IS_CLONE else _PACKAGE / "configs"


def main(_: Sequence[str]) -> None:
    from psl_jax.experiments import suite
    from psl_jax.runtime import distributed, run_files

    distributed.configure()
    config = flags.FLAGS.config
    distributed.join_processes(
        _DISTRIBUTED.value,
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        dict(flatten(config.to_dict()))
        | {f.name: f.value for f in (_STAGE, _AFRESH, _SEEDS, _FOLDS)},
    )
    workdir = _WORKDIR.value or os.path.join("runs", config.name)
    seeds = _read_numbers(_SEEDS, "different numbers, such as 0,1,2")
    for seed in seeds or ():
        check("seeds", seed, config_lib.KNOWN["seed"], "--")
    is_all = _FOLDS.value == "all"
    folds = [] if is_all else _read_numbers(_FOLDS, "all, or different numbers, such as 1,2,3")
    with run_files.claim_folder(workdir, "--workdir"):
        suite.run(
            config,
            workdir,
            seeds=seeds,
            folds=folds,
            last_stage=_STAGE.value,
            start_afresh=_AFRESH.value,
        )


def _read_numbers(flag: flags.FlagHolder[Any], expected: str) -> list[int] | None:
    """The numbers of a flag such as 0,1,2; None where it is not given. Raises UserError."""
    if flag.value is None:
        return None
    words = [word.strip() for word in flag.value.split(",")]
    numbers = [int(word) for word in words if word.isdecimal()]
    if len(set(numbers)) < len(words):
        raise UserError(f"--{flag.name}={flag.value}: expected {expected}")
    return numbers


def help_text() -> str:
    """What the command does, its flags, and all settings."""
    about_config = (
        "Config file or name, with a variant after a colon where it has one: quickstart, "
        "own_data:mn04, psl2s:code; configs/ has all (required)."
    )
    descriptions = [("config", about_config)]
    descriptions += [(flag.name, f"{flags.FLAGS[flag.name].help}") for flag in _FLAGS]
    lines = ["usage: psl-jax main --config CONFIG [FLAG ...] [--config.SETTING=VALUE ...]", ""]
    lines += [(__doc__ or "").strip(), "", "flags:"]
    for name, text in descriptions:
        lines.append(f"  --{name}")
        lines += textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += [
        "",
        "settings, --config.SETTING=VALUE (docs/SETTINGS.md):",
        "",
    ]
    return "\n".join([*lines, settings_reference.list_settings()])


def _parse(arguments: list[str]) -> list[str]:
    if {"-h", "-help", "--help"} & set(arguments[1:]):
        print(help_text())
        sys.exit(0)
    arguments = [f"-{a}" if a.startswith(_SETTING[1:]) else a for a in arguments]
    changes = [argument for argument in arguments[1:] if argument.startswith(_SETTING)]
    others = [a for a in _with_found_config(arguments) if not a.startswith(_SETTING)]
    config = config_flags.DEFINE_config_file(
        "config", None, "Settings; see configs/.", lock_config=True, sys_argv=others
    )
    try:
        rest: list[str] = flags.FLAGS(others)
        cli_entry.check_stray_words(arguments, rest[1:])
        if not flags.FLAGS["config"].present:
            raise UserError("no config: give --config=NAME, such as quickstart, or a file")
        if not isinstance(config.value, ConfigDict):  # or this raises what is wrong with the file
            raise TypeError(f"get_config() gives {config.value!r:.40}, expected a ConfigDict")
        for argument in changes:
            _change(config.value, argument)
    except flags.Error as error:
        lines = f"{error}".splitlines()  # between the first and the last may be a traceback
        raise UserError(" ".join(dict.fromkeys([lines[0], lines[-1]]))) from error
    except _CONFIG_ERRORS as error:
        raise UserError(f"cannot read the config: {error}") from error
    for line in _not_reached(config.value, changes):
        print(line)
    return rest


def _with_found_config(arguments: list[str]) -> Iterator[str]:
    """The arguments with the path of the config that --config names."""
    for before, argument in itertools.pairwise(["", *arguments]):
        flag, equals, name = argument.partition("=")
        if before in ("--config", "-config"):
            yield find_config(argument)
        elif equals and flag in ("--config", "-config"):
            yield f"{flag}={find_config(name)}"
        else:
            yield argument


def _change(config: ConfigDict, argument: str) -> None:
    """Takes in --config.KEY=VALUE or --config.experiments.NAME.KEY=VALUE. Raises UserError."""
    path, equals, text = argument.removeprefix(_SETTING).partition("=")
    if not equals:
        raise UserError(f"{argument}: expected a value. Is it {argument}=VALUE?")
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


if __name__ == "__main__":
    if huge_pages.is_command("main"):
        huge_pages.restart_with_them()
    cli_entry.run(main, _parse, takes_buckets=True)
