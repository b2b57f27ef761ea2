"""All that is worth measuring on a GPU, the most important first, in 8 minutes.

    python benchmarks/gpu_session.py OUT --data_dir DATA    # a second call takes up what is left
    python benchmarks/gpu_session.py OUT --smoke            # tiny sizes, on a CPU: only to try it

DATA is a small prepared data set (split train), whose shards are read again and again. --wheels
names a folder of packages that this Python lacks.

Needs JAX with a GPU and PyTorch; no TensorFlow. Each step is a process with a time of its own, its
output in OUT/STEP.log. OUT/results.jsonl gets a line for each result as soon as it is there, and
for each step how it ended: what a killed session has measured is kept. A step that failed or was
left out is run by the next call.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
SESSION_SECONDS = 480
MODES = ("reduce-overhead", "max-autotune", "default")
GPU_QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"


@dataclasses.dataclass(frozen=True)
class Step:
    """A script of this folder, its arguments, and the most seconds that it may take."""

    name: str
    seconds: int
    script: str
    arguments: tuple[str, ...]


def steps(best: dict[str, str], data_dir: str | None, smoke: bool) -> list[Step]:
    """The plan. best: of train and relabel, PyTorch's fastest mode so far."""

    def compared(operation: str, batch: int, seconds: int, *more: str) -> Step:
        name = f"{operation}_{batch}" + "_xla" * ("--xla_options" in more)
        arguments = ("--only", operation, "--batch", "2" if smoke else str(batch))
        return Step(name, seconds, "throughput.py", (*arguments, *sizes, *more))

    sizes = ("--seconds", "2", "--dtypes", "bf16")
    loops: tuple[str, ...] = ("--dtype", "bfloat16", "--batch", "256", "--rounds", "1")
    loops += ("--repeat", "64", "--steps", "2000")
    options = "no_command_buffers,latency_hiding"
    if smoke:
        sizes += ("--shallow", "--rounds", "2", "--round_seconds", "0.05")
        loops = ("--shallow", "--rounds", "1", "--repeat", "1", "--batch", "2", "--steps", "4")
        options = "no_fast_math"

    if data_dir:
        loops += ("--data_dir", data_dir, "--split", "train")

    def mode(operation: str) -> tuple[str, str]:
        return "--torch_compile", best.get(operation, MODES[0])

    all_modes = ("--torch_compile", ",".join(MODES[-1:] if smoke else MODES))
    alone = ("--others", "", "--xla_options", options)
    profiled = ("--others", "", "--profile", "--only", "relabel,train")
    profiled += ("--batch", "2" if smoke else "256", *sizes)
    return [
        compared("train", 256, 140, *all_modes),
        compared("relabel", 256, 100, *all_modes),
        compared("train", 1024, 70, *mode("train")),
        compared("relabel", 1024, 60, *mode("relabel")),
        Step("kernels", 45, "throughput.py", profiled),
        Step("loops", 90, "whole_loops.py", loops),
        compared("train", 256, 60, *alone),
        compared("relabel", 256, 40, *alone),
        compared("train", 2048, 80, *mode("train")),
        compared("relabel", 2048, 60, *mode("relabel")),
    ]


def main() -> None:
    flags = parse()
    flags.out.mkdir(parents=True, exist_ok=True)
    results = flags.out / "results.jsonl"
    environment = _environment(flags)
    _append(results, {"session": _machine(environment)})
    start = time.monotonic()
    finished = {line["step"] for line in _lines(results) if line.get("status") == 0}
    for step in steps({}, flags.data_dir, flags.smoke):
        left = flags.seconds - (time.monotonic() - start)
        if step.name in finished or left < 10:
            print(f"{step.name}: {'done before' if step.name in finished else 'left out'}")
            continue
        now = steps(_best_modes(results), flags.data_dir, flags.smoke)
        step = next(one for one in now if one.name == step.name)
        longest = left if flags.smoke else min(step.seconds, left)
        _append(results, _run(step, longest, flags.out, environment))
    print(f"{time.monotonic() - start:.0f} s; results in {results}")


def _run(step: Step, seconds: float, out: pathlib.Path, environment: dict[str, str]) -> dict:
    """Runs a step; its lines are in the results then. Returns how it ended."""
    command = [sys.executable, HERE / step.script, *step.arguments]
    began = time.monotonic()
    with (out / f"{step.name}.log").open("w") as log:
        try:
            status = subprocess.run(
                [*command, "--out", out / "results.jsonl"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=seconds,
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
    if "[failed]" in (out / f"{step.name}.log").read_text():
        status = status or 1
    took = round(time.monotonic() - began, 1)
    print(f"{step.name}: exit status {status} after {took} of {seconds:.0f} s", flush=True)
    return {"step": step.name, "status": status, "seconds": took}


def _best_modes(results: pathlib.Path) -> dict[str, str]:
    """The mode of torch.compile that was the fastest, by operation."""
    best = {}
    for line in _lines(results):
        if "operation" in line:
            rates = {
                mode: one["segments_per_second"]
                for name, one in line["others"].items()
                for mode in MODES
                if f"compile({mode})" in name and "timm" not in name
            }
            if rates:
                best.setdefault(line["operation"], max(rates, key=lambda mode: rates[mode]))
    return best


def _environment(flags: argparse.Namespace) -> dict[str, str]:
    """With caches of compiled programs in OUT, and the wheels' packages on the path."""
    packages = flags.out / "packages"
    for wheel in sorted(flags.wheels.glob("*.whl")) if flags.wheels else ():
        zipfile.ZipFile(wheel).extractall(packages)
    path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH", "")]))
    caches = {
        "JAX_COMPILATION_CACHE_DIR": str((flags.out / "xla").resolve()),
        "TORCHINDUCTOR_CACHE_DIR": str((flags.out / "inductor").resolve()),
        "PYTHONPATH": path,
    }
    return os.environ | caches | ({"JAX_PLATFORMS": "cpu"} if flags.smoke else {})


def _machine(environment: dict[str, str]) -> dict[str, str]:
    """The GPU with its clocks, and the versions."""

    def told(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        except FileNotFoundError:
            return "none"
        return (done.stdout or done.stderr).strip()

    script = (
        "import importlib.metadata as m\n"
        "for name in 'jax jaxlib jax-cuda13-plugin flax torch triton timm'.split():"
        "\n    try: print(name, m.version(name))\n    except m.PackageNotFoundError: pass"
    )
    return {
        "gpu": told("nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv"),
        "versions": told(sys.executable, "-c", script),
        "cores": str(os.cpu_count()),
    }


def _lines(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _append(path: pathlib.Path, line: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=SESSION_SECONDS)
    parser.add_argument("--data_dir")
    parser.add_argument("--wheels", type=pathlib.Path, help="a folder")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
