"""Compiles the programs of training and relabeling for accelerators that are not here.

    python benchmarks/compile_for.py --target v5e-8,h100 --programs student,teacher,relabel \
        --dtype bfloat16 --out compiled.json

Needs JAX and, for TPUs, libtpu (pip install -e '.[aot-tpu]'); for GPUs JAX's CUDA plug-in, best
in an environment of its own. No accelerator, no TensorFlow. Told for each program: how long it took
to compile; operations; for TPUs the compiler's own estimate of cycles, by phase, and the segments a
second that follow; bytes moved by the operations and their ratio to the least (see cases.py);
memory a chip; collectives. For TPUs also three roofs (the cycles that matrix unit, vector unit and
memory need at least) and the ten longest operations with the roof that
limits each. All are what the compiler says or what its program reads as: estimates, no
measurements. A target is compiled in a process of its own.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import compiled_text
from accelerators import TARGETS, Target, environment, mesh_of

# Seconds, segments a chip. mn, mn_student: EfficientAT's mn of width 0.4 relabels, trains.
PROGRAMS = {
    "student": (2, 256),
    "teacher": (10, 128),
    "relabel": (2, 256),
    "mn": (2, 256),
    "mn_student": (2, 256),
}
BY_DEFAULT = "student,teacher,relabel"
CLASSES = 527


def compiled(target: Target, program: str, seconds: float, per_chip: int, dtype: str) -> dict:
    """What there is to say of one program for one target."""
    import jax
    import numpy as np
    from cases import Case, minimum_bytes
    from jax.sharding import NamedSharding

    from psl_jax.runtime import parallel

    mesh = mesh_of(target)
    batch = per_chip * mesh.size
    replicated, split = (NamedSharding(mesh, s) for s in (parallel.REPLICATED, parallel.SPLIT))

    samples = round(seconds * 16_000)
    inputs = {
        "audio": jax.ShapeDtypeStruct((batch, samples), np.int16, sharding=split),
        "num_samples": jax.ShapeDtypeStruct((batch,), np.int32, sharding=split),
        "labels": jax.ShapeDtypeStruct((batch, CLASSES), np.float32, sharding=split),
    }
    function, arguments = _program(program, mesh, dtype, inputs)
    arguments = [
        argument
        if i and isinstance(argument, dict | jax.ShapeDtypeStruct)
        else _shapes(argument, replicated)
        for i, argument in enumerate(arguments)
    ]
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    executable = lowered.compile()
    took = time.perf_counter() - start
    memory = executable.memory_analysis()
    operation = {"relabel": "relabel", "mn": "relabel_mn", "mn_student": "train_mn"}
    case = Case(operation.get(program, "train"), int(seconds), per_chip, dtype)
    text = executable.as_text()
    work = compiled_text.read(text)
    result = {
        "program": program,
        "seconds": seconds,
        "per_chip": per_chip,
        "dtype": dtype,
        "compile_seconds": round(took, 1),
        "operations": work.operations,
        "bytes_moved": work.bytes_moved,
        "minimum_bytes": minimum_bytes(case),
        "arguments_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "chip_bytes": target.gibibytes << 30,
        "collectives": work.collectives,
    }
    if work.cycles:
        rate = target.gigahertz * 1e9 / work.cycles
        result |= {
            "estimated_cycles": work.cycles,
            "cycles_by_phase": dict(collections.Counter(work.phases).most_common()),
            "estimated_segments_per_second_a_chip": round(rate * per_chip),
            **_roofline(target, compiled_text.operations(text, target.tile)),
        }
    return result


def _roofline(target: Target, operations: Sequence[compiled_text.Operation]) -> dict[str, Any]:
    """Cycles under each roof, those with each operation at its own, and the longest operations."""
    roofs = [
        {name: operation.times * cycles for name, cycles in limits.items()}
        for operation in operations
        for limits in [target.roofs(operation.flops, operation.elements, operation.main_bytes)]
    ]
    longest = sorted(range(len(roofs)), key=lambda i: -operations[i].times * operations[i].cycles)
    return {
        "roofs": {name: round(sum(limits[name] for limits in roofs)) for name in roofs[0]},
        "cycles_at_the_roofs": round(sum(max(limits.values()) for limits in roofs)),
        "longest": [
            {
                "operation": operations[i].name,
                "scope": operations[i].scope,
                "shape": operations[i].shape[:60],
                "cycles": operations[i].times * operations[i].cycles,
                "roof": max(roofs[i], key=lambda name: roofs[i][name]),
                "roof_cycles": round(max(roofs[i].values())),
            }
            for i in longest[:10]
        ],
    }


def _shapes(value: Any, sharding: Any) -> Any:
    import jax
    import numpy as np

    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=sharding), value
    )


def _program(name: str, mesh: Any, dtype: str, inputs: dict) -> tuple[Any, list]:
    """The program that `psl_jax.main` runs, and what it is called with."""
    import numpy as np
    from cases import MN_WIDTH

    from psl_jax import config
    from psl_jax.networks.augmentation import Augmentation
    from psl_jax.networks.frontend import LogMel
    from psl_jax.networks.mn import MN
    from psl_jax.networks.mobilenetv2 import MOBILENET_V2
    from psl_jax.scoring.scorer import scoring_program
    from psl_jax.training.step import Recipe, init_state, train_program

    architecture, width = (MN, MN_WIDTH) if name.startswith("mn") else (MOBILENET_V2, 1.0)
    network, variables = architecture.create(CLASSES, width)
    front_end = architecture.front_end(LogMel())
    if name in ("relabel", "mn"):
        program = scoring_program(front_end, dtype, mesh)
        folded = architecture.fold(variables, "sigmoid")
        return program, [folded, inputs["audio"], inputs["num_samples"]]
    augmentation = Augmentation()
    if name == "teacher":
        augmentation = Augmentation(**config.TEACHER["augment"])
    program = train_program(network, Recipe(front_end, augmentation, dtype), mesh)
    return program, [init_state(variables), inputs, np.float32(1e-4)]


def line(result: dict) -> str:
    """A result in a line."""
    cycles = result.get("estimated_cycles")
    used = (result["arguments_bytes"] + result["temporary_bytes"]) / 2**30
    collectives = sum(one["count"] for one in result["collectives"].values())
    moved = result["bytes_moved"] / 1e9
    text = (
        f"{result['target']:8} {result['program']:8} {result['seconds']:4g} s x "
        f"{result['per_chip']:<4} compiled in {result['compile_seconds']:5.1f} s, "
        f"{result['operations']:5} operations, {moved:6.2f} GB moved "
        f"({result['bytes_moved'] / result['minimum_bytes']:.1f} x the least), {used:.2f} GiB of "
        f"{result['chip_bytes'] >> 30}, {collectives} collectives"
    )
    if cycles:
        rate = result["estimated_segments_per_second_a_chip"]
        phases = ", ".join(
            f"{phase} {count / 1e6:.1f}" for phase, count in result["cycles_by_phase"].items()
        )
        text += (
            f"\n         estimated {cycles / 1e6:.1f} M cycles: {rate:,} segments/s a chip\n"
            f"         {phases}\n         at least: "
            + ", ".join(f"{name} {roof / 1e6:.1f}" for name, roof in result["roofs"].items())
            + f"; each operation at its roof {result['cycles_at_the_roofs'] / 1e6:.1f}"
        )
        for entry in result["longest"]:
            text += (
                f"\n         {entry['cycles'] / 1e6:6.3f}, {entry['roof']} "
                f"{entry['roof_cycles'] / 1e6:.3f}  {entry['shape']}  {entry['scope'][-60:]}  "
                f"{entry['operation']}"
            )
    return text


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--target", default="v5e-8", help=f"some of {', '.join(TARGETS)}")
    add("--programs", default=BY_DEFAULT, help=f"some of {', '.join(PROGRAMS)}")
    add("--seconds", default="", help="lengths of the segments (default: 2, of a teacher 10)")
    add("--per_chip", default="", help="batches a chip (default: 256, of a teacher 128)")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--out", default="compiled.json", metavar="JSON")
    add("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    result = parser.parse_args(arguments[1:])
    for option, known in (("target", TARGETS), ("programs", PROGRAMS)):
        for name in getattr(result, option).split(","):
            if name not in known:
                parser.error(f"--{option}: {name!r} is none of {', '.join(known)}")
    return result


def main(arguments: argparse.Namespace) -> None:
    results, failed = [], []
    for name in arguments.target.split(","):
        if not arguments.here:
            try:
                results += _in_a_process(name, arguments)
            except subprocess.CalledProcessError as error:  # the other targets' results are kept
                failed.append(f"{name}: failed with status {error.returncode}")
            continue
        for program, seconds, per_chip in _cases(arguments):
            result = compiled(TARGETS[name], program, seconds, per_chip, arguments.dtype)
            results.append({"target": name} | result)
            print(line(results[-1]), flush=True)
    pathlib.Path(arguments.out).write_text(json.dumps(results, indent=2) + "\n")
    if failed:
        sys.exit("\n".join(failed))


def _cases(arguments: argparse.Namespace) -> Iterator[tuple[str, float, int]]:
    for program in arguments.programs.split(","):
        seconds, per_chip = PROGRAMS[program]
        for length in (arguments.seconds or str(seconds)).split(","):
            for batch in (arguments.per_chip or str(per_chip)).split(","):
                yield program, float(length), int(batch)


def _in_a_process(name: str, arguments: argparse.Namespace) -> list[dict]:
    out = f"{arguments.out}.{name}"
    command = [sys.executable, __file__, "--here", f"--target={name}", f"--out={out}"]
    options = ("programs", "seconds", "per_chip", "dtype")
    command += [f"--{option}={getattr(arguments, option)}" for option in options]
    subprocess.run(command, check=True, env=os.environ | environment(TARGETS[name]))
    results = json.loads(pathlib.Path(out).read_text())
    pathlib.Path(out).unlink()
    return results


if __name__ == "__main__":
    main(parse(sys.argv))
