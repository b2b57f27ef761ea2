"""Segments a second of psl_jax beside PyTorch's best on the same machine.

    python benchmarks/throughput.py                       # everything, sized for this machine
    python benchmarks/throughput.py --only train,relabel --seconds 2 --batch 256,512 --dtypes bf16
    python benchmarks/throughput.py --profile             # what the device spends its time on
    python benchmarks/throughput.py --methods             # ways to compute depthwise convolutions

For each case psl_jax and the variants of PyTorch run in alternating rounds of one process; rates
are medians over rounds, ratios medians of the rounds' ratios. Needs JAX and PyTorch (--no_torch:
only JAX), not TensorFlow. Writes throughput.json and throughput.png into --out.
"""

import argparse
import os
import pathlib
import sys
import time
import traceback

# Both libraries share one device: JAX must not take all of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.append(f"{pathlib.Path(__file__).resolve().parents[1]}/tests/helpers")  # torch_reference

from psl_jax.runtime import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with_them()  # as psl_jax.main does: both sides get them

import jax
import jax_runners
import throughput_report
from cases import OPERATIONS, Case, minimum_bytes, minimum_flops
from runners import Runner, Schedule, alternate, calibrate, ratio

START = time.perf_counter()
ON_GPU = jax.default_backend() != "cpu"
MAIN_DTYPE = "bfloat16" if ON_GPU else "float32"
DTYPES = {"f32": "float32", "bf16": "bfloat16", "float32": "float32", "bfloat16": "bfloat16"}
# Batches by segment length, where none are asked for.
BATCHES = {2: (256, 1024), 10: (64, 256)} if ON_GPU else {2: (32,), 10: (8,)}


def main() -> None:
    flags = _flags()
    torch_runners = _import_torch(flags)
    machine = _machine(torch_runners)
    print("; ".join(machine[key] for key in ("device", "jax", "torch")), flush=True)
    if flags.methods:
        import depthwise_methods

        depthwise_methods.main(flags.seconds, flags.batch, flags.dtypes)
    results: list[dict] = []
    if not flags.methods and not (flags.profile and flags.only == "none"):
        machine |= _ceilings(torch_runners, flags)
        results = _measure(flags, machine, torch_runners)
        print(throughput_report.table(results, machine))
        throughput_report.write(results, machine, flags.out)
    if flags.profile:
        import kernel_profile

        kernel_profile.main(flags.seconds, flags.batch, flags.dtypes, flags.out)


def _measure(flags, machine: dict, torch_runners) -> list[dict]:
    """Runs the cases in order of interest until the time is used up."""
    results = []
    for case in _cases(flags):
        if time.perf_counter() - START > flags.budget:
            print(f"[left out: the {flags.budget:g} s are used up] {case}", flush=True)
            continue
        start = time.perf_counter()
        try:
            result = _run_case(case, flags, machine, torch_runners)
        except Exception as error:
            _report_failure(str(case), error)
            continue
        finally:
            if torch_runners:
                torch_runners.release()
        results.append(result)
        throughput_report.write_json(results, machine, flags.out)
        spent = time.perf_counter() - start
        print(f"{throughput_report.one_line(result)}   [{spent:.0f} s]", flush=True)
    return results


def _run_case(case: Case, flags, machine: dict, torch_runners) -> dict:
    """Measures one case; a PyTorch variant that fails is reported and left out."""
    schedule = Schedule(
        flags.rounds, flags.round_seconds, flags.case_seconds, 0.0 if ON_GPU else 0.3
    )
    ours = jax_runners.Program(case).compile().runner()
    calibrate(ours, schedule)
    others = []
    variants = torch_runners.variants(case, _compile_mode(case, flags)) if torch_runners else []
    for variant in variants:
        try:
            runner = torch_runners.make_runner(case, variant)
            calibrate(runner, schedule)
            others.append(runner)
        except Exception as error:
            _report_failure(f"{case}: torch {variant}", error)
    alternate([ours, *others], schedule)
    return _result(case, ours, others, machine)


def _result(case: Case, ours: Runner, others: list[Runner], machine: dict) -> dict:
    best = max(others, key=lambda runner: runner.rate, default=None)
    flops, moved = minimum_flops(case), minimum_bytes(case)
    ceiling, copy = machine["flops_per_second"][case.dtype], machine["bytes_per_second"]
    result = {
        "operation": case.operation,
        "seconds": case.seconds,
        "batch": case.batch,
        "dtype": case.dtype,
        "segments_per_second": ours.rate * case.batch,
        "times_real_time": ours.rate * case.batch * case.seconds,
        "compile_seconds": ours.compile_seconds,
        "peak_bytes": ours.peak_bytes,
        "xla_flops": ours.flops,
        "xla_bytes": ours.bytes,
        "minimum_flops": flops,
        "minimum_bytes": moved,
        "matmul_fraction": flops * ours.rate / ceiling,
        "copy_fraction": ours.bytes * ours.rate / copy if ours.bytes else None,
        "bandwidth_floor_fraction": moved * ours.rate / copy,
        "rates": [rate * case.batch for rate in ours.rates],
        "torch": {runner.name: _torch_result(case, runner, ours) for runner in others},
    }
    if best is not None:
        result |= {
            "torch_best": best.name,
            "torch_segments_per_second": best.rate * case.batch,
            "ratio": ratio(ours, best),
        }
    return result


def _torch_result(case: Case, runner: Runner, ours: Runner) -> dict:
    return {
        "segments_per_second": runner.rate * case.batch,
        "ratio": ratio(ours, runner),
        "first_call_seconds": runner.compile_seconds,
        "peak_bytes": runner.peak_bytes,
        "rates": [rate * case.batch for rate in runner.rates],
    }


def _cases(flags) -> list[Case]:
    """All cases, the most telling first: half precision on an accelerator, training, relabeling."""
    cases = []
    for dtype in flags.dtypes:
        for operation in OPERATIONS:
            if operation in flags.only.split(","):
                for seconds in flags.seconds:
                    kind = "float32" if operation == "frontend" else dtype
                    batches = flags.batch or _default_batches(operation, seconds, dtype)
                    cases += [Case(operation, seconds, batch, kind) for batch in batches]
    return list(dict.fromkeys(cases))


def _default_batches(operation: str, seconds: int, dtype: str) -> tuple[int, ...]:
    """Several batches for what matters most, one for the rest: minutes and not an hour."""
    batches = BATCHES.get(seconds, (32,))
    return batches if operation in ("train", "relabel") and dtype == MAIN_DTYPE else batches[-1:]


def _compile_mode(case: Case, flags) -> str | None:
    """torch.compile's mode for a case, or None: compiling takes most of a minute for each."""
    if flags.torch_compile == "none" or case.operation == "frontend":
        return None
    largest = max(flags.batch or BATCHES.get(case.seconds, (32,)))
    chosen = flags.torch_compile_batch or [largest]
    return flags.torch_compile if case.batch in chosen and case.dtype == MAIN_DTYPE else None


def _ceilings(torch_runners, flags) -> dict:
    """What this machine can do at best: matrix products in each type, and copies."""
    libraries = [jax_runners, *([torch_runners] if torch_runners else [])]
    size, copied, repeats = (8192, 2**31, 8) if ON_GPU else (2048, 2**28, 2)
    flops = {}
    for dtype in sorted({"float32", *flags.dtypes}):
        flops[dtype] = max(library.matmul_ceiling(dtype, size, repeats) for library in libraries)
        print(f"ceiling: {flops[dtype] / 1e12:.3g} TFLOP/s, {dtype} product of {size}", flush=True)
    moved = max(library.copy_ceiling(copied, repeats) for library in libraries)
    print(f"ceiling: {moved / 1e9:.4g} GB/s, copy, read and written bytes counted", flush=True)
    return {"flops_per_second": flops, "bytes_per_second": moved}


def _machine(torch_runners) -> dict:
    device = jax.devices()[0]
    machine = {"device": f"{device.device_kind} ({os.cpu_count()} CPU cores)"}
    machine["jax"] = f"jax {jax.__version__}, Python {sys.version.split()[0]}"
    machine["command"] = " ".join(["python", *sys.argv])
    machine["torch"] = torch_runners.set_up() if torch_runners else "without PyTorch"
    return machine


def _import_torch(flags):
    if flags.no_torch or flags.methods or (flags.profile and flags.only == "none"):
        return None
    try:
        import torch_runners
    except ImportError as error:
        print(f"no comparison with PyTorch: {error}")
        return None
    if ON_GPU and not torch_runners.ON_GPU:
        print("no comparison with PyTorch: it does not see the accelerator")
        return None
    return torch_runners


def _report_failure(what: str, error: Exception) -> None:
    print(f"[failed] {what}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    traceback.print_exc(limit=-3)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    def dtypes(text: str) -> list[str]:
        return [DTYPES[word] for word in text.split(",")]

    add("--only", default=",".join(OPERATIONS), help="operations; none: only --profile")
    add("--seconds", type=numbers, default=[2, 10], help="segment lengths")
    add("--batch", type=numbers, help=f"batch sizes (default by length: {BATCHES})")
    add("--dtypes", type=dtypes, default="bf16,f32" if ON_GPU else "f32", help="f32, bf16")
    add("--rounds", type=int, default=5)
    add("--round_seconds", type=float, default=0.3 if ON_GPU else 2.0)
    add("--case_seconds", type=float, default=20.0 if ON_GPU else 120.0)
    add("--budget", type=float, default=300.0 if ON_GPU else 3600.0, help="start no case later")
    add("--no_torch", action="store_true", help="measure psl_jax only")
    modes = ("none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
    add("--torch_compile", choices=modes, default="default" if ON_GPU else "none")
    add("--torch_compile_batch", type=numbers, help="batches to compile for (default: the largest)")
    add("--methods", action="store_true", help="compare depthwise methods instead")
    add("--profile", action="store_true", help="also print the ten longest kernels")
    add("--out", type=pathlib.Path, default=pathlib.Path(os.environ.get("OUT", "runs/throughput")))
    return parser.parse_args()


if __name__ == "__main__":
    main()
