"""Each kind of file that a run makes or reads, damaged: repaired, or refused by name?

    python tests/faults/damage.py --out results        # some minutes on two cores
    python tests/faults/damage.py --only stages.json   # one kind
    python tests/faults/damage.py --state killed       # damage to the run that was killed only

A small suite (faults.py's: a teacher and a student) is run to its end, and once until its student
is killed in training. In a copy of the data and of one of the two runs a file is cut to half its
length, or one bit in its middle is turned, or it is deleted; then the same command is given again,
in this process. What may come of it:

  same      it ends like the undisturbed run: the file did not matter, or was made again
  refused   an error for people that names the file or its folder
  OTHER     it ends with other figures and says nothing
  TRACEBACK an error that is for nobody

Where it is refused and the message says what to delete, that is done and the command given again.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

import campaigns  # noqa: E402
from campaigns import FaultError  # noqa: E402

DAMAGES = ("cut", "flip", "delete")
STATES = {"finished": "one-whole", "killed": "killed"}


def main() -> None:
    flags = _flags()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.environ |= campaigns.FEWER_OPTIMIZATIONS
        shallow(root / "cache")
        campaigns.write_source(root / "source")
        (root / "config.py").write_text(campaigns.CONFIG)
        campaigns.Preparing(root).reference()
        shutil.copytree(root / "prepare-whole", root / "data")
        suite = campaigns.Suite(root)
        suite.reference()
        kill_in_training(suite, root / "killed")
        rows = list(drill(root, suite, flags.state, flags.only))
    by_kind = table(rows)
    print("\n".join(by_kind))
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        (flags.out / "damage.json").write_text(json.dumps(rows, indent=2) + "\n")
        (flags.out / "damage.md").write_text("\n".join(by_kind) + "\n")
    bad = [row for row in rows if row["came"] in ("OTHER", "TRACEBACK")]
    raise SystemExit(1 if bad else 0)


def shallow(cache: pathlib.Path) -> None:
    """The network of tests/helpers/small_main.py in this process; programs are compiled once."""
    import jax

    from psl_jax.networks import mobilenetv2

    mobilenetv2.INVERTED_RESIDUALS = campaigns.small_network.SHALLOW
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def kill_in_training(suite: campaigns.Suite, folder: pathlib.Path) -> None:
    """The suite, killed when the student has trained for a while: its 20th batch is the second
    experiment's eighth."""
    environment = os.environ | {"DIE_AT": "batch 20", "JAX_PLATFORMS": "cpu"}
    (command,) = suite.commands(folder)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != -9 or suite.stage(folder) != "student train":
        raise SystemExit(f"{done.returncode} in {suite.stage(folder)}: {done.stderr[-2000:]}")


# --- the drill ------------------------------------------------------------------------------------


def drill(
    root: pathlib.Path, suite: campaigns.Suite, states: str, only: str
) -> Iterator[dict[str, str]]:
    for state in (STATES[name] for name in states.split(",")):
        for kind, path in kinds(root, root / state).items():
            for damage in DAMAGES:
                if only and only not in kind:
                    continue
                row = {"state": "finished" if state == "one-whole" else "in training"}
                row |= {"file": kind, "damage": damage}
                row |= one(root, suite, state, path, damage)
                print(json.dumps(row), flush=True)
                yield row


def kinds(root: pathlib.Path, run: pathlib.Path) -> dict[str, pathlib.Path]:
    """A file of each kind, by what it is called: in `data` and in the run."""
    found: dict[str, pathlib.Path] = {}
    for folder in (root / "data", run):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.name.startswith((".lock", "events.")):
                if name.endswith("html") or "/tb/" in name or "/report" in name:
                    continue  # written anew by every start
                found.setdefault(_kind(name, folder == root / "data"), path)
    return found


def _kind(name: str, is_data: bool) -> str:
    """A name without the numbers that tell files of one kind apart."""
    parts = name.split("/")
    if is_data:
        parts = ["data", parts[-1]]
    words = [re.sub(r"\d+", "N", part) for part in parts]
    if "ocdbt.process_N" in words or "d" in words:
        words = [*words[: -1 if "d" in words else None], *(["*"] if "d" in words else [])]
    return "/".join(words)


def one(
    root: pathlib.Path, suite: campaigns.Suite, state: str, path: pathlib.Path, damage: str
) -> dict[str, str]:
    """What came of one damage, in words."""
    data, run = root / "prepare-whole", root / "run"
    for folder, pristine in ((data, root / "data"), (run, root / state)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pristine, folder)
    inside = root / "data" in path.parents
    mine = (
        data / path.relative_to(root / "data") if inside else run / path.relative_to(root / state)
    )
    harm(mine, damage)
    came, message = command(root, suite, run)
    if came == "refused" and not named(mine, message):
        came = "TRACEBACK"  # as good as one
    return {"came": came, "says": message.replace(str(root), "")[:300]}


def harm(path: pathlib.Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
        return
    if damage == "cut":
        content = content[: len(content) // 2]
    elif content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


def named(path: pathlib.Path, message: str) -> bool:
    """Whether the message names the file or a folder of its own (not those of the whole run)."""
    near = [path, path.parent, *list(path.parents)[1:3]]
    return any(str(place) in message for place in near)


def command(root: pathlib.Path, suite: campaigns.Suite, run: pathlib.Path) -> tuple[str, str]:
    """Runs the suite in this process: what came of it, and what it said."""
    from psl_jax.experiments import suite as suite_lib
    from psl_jax.runtime.errors import UserError

    config = _config(root)
    config.data.data_dir = str(root / "prepare-whole")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            suite_lib.run(config, str(run), None)
    except UserError as error:
        return "refused", str(error)
    except Exception as error:
        return "TRACEBACK", f"{type(error).__name__}: {error}"
    suite.folder = run
    told = [line for line in said.getvalue().splitlines() if "damaged" in line or "again" in line]
    try:
        suite.compare()
    except UserError as error:  # nothing needed it, and who reads it is told
        return "refused", str(error)
    except (FaultError, OSError, ValueError, KeyError) as error:  # it is still damaged
        return "OTHER", str(error)
    return "same", "; ".join(told)


def _config(root: pathlib.Path):
    scope: dict[str, Callable] = {}
    exec((root / "config.py").read_text(), scope)
    return scope["get_config"]()


def table(rows: list[dict[str, str]]) -> list[str]:
    """A Markdown table: a line for each kind of file and state, a column for each damage."""
    lines: dict[tuple[str, str], dict[str, str]] = collections.defaultdict(dict)
    for row in rows:
        lines[row["state"], row["file"]][row["damage"]] = row["came"]
    result = ["| run | file | " + " | ".join(DAMAGES) + " |", "| --- " * (2 + len(DAMAGES)) + "|"]
    for (state, file), came in lines.items():
        cells = " | ".join(came.get(damage, "") for damage in DAMAGES)
        result.append(f"| {state} | `{file}` | {cells} |")
    return result


def _flags() -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="kinds of files with this in their name")
    parser.add_argument("--state", default=",".join(STATES), help="(default: both)")
    parser.add_argument("--out", type=pathlib.Path, help="folder for damage.json and damage.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
