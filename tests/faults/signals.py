"""A signal to one or to both of two processes, at random moments of a stage: do both end?

    python tests/faults/signals.py --trials 50 --out signals.json

Stages are `relabel` and `evaluate` with a slow teacher, and `train`, which also saves every three
seconds. A trial fails where a process is still there a minute after the signal (`--timeout 600` on
a busy machine), or ends with another status than 75, or where the processes saved different steps.
The signals are those of a launcher, a terminal, Ctrl-C and a cluster, by chance. Of a process that
hangs the output ends with the stacks of its threads.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from campaigns import CONFIG, FEWER_OPTIMIZATIONS, ROOT, Preparing, free_address, write_source

RESTART = 75
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
CONNECTED = b"is connected to 1 peer ranks"
TEACHER = """
import time
import numpy as np

def score(waves):
    time.sleep(0.2)
    return np.full((len(waves), 2), 0.5, np.float32)

score.classes = ("loud", "quiet")
"""
TRAIN = {"max_steps": 1_000_000, "validate_every": 1_000_000, "checkpoint_every": 1_000_000}
TRAIN |= {"log_every": 20, "checkpoint_minutes": 0.05}


def command(stage: str, root: pathlib.Path, trial: int) -> list[str]:
    if stage == "train":
        settings = [f"--config.experiments.teacher.train.{k}={v}" for k, v in TRAIN.items()]
        program = [str(ROOT / "tests/helpers/small_main.py"), "--config", str(root / "config.py")]
        data = f"--config.data.data_dir={root / 'prepare-whole'}"
        return [*program, data, f"--workdir={root / 'run'}", *settings]
    (data_set,) = (root / "prepare-whole" / "own_data").glob("*/1.0.0")
    out = f"--out={root / f'{stage}-{trial}'}"
    options = ["--split=train", "--segment_seconds=0.1", "--batch_size=8", out]
    return ["-m", "psl_jax", stage, "python:slow_teacher:score", str(data_set), *options]


def run_trial(
    command: list[str],
    root: pathlib.Path,
    victims: dict[int, signal.Signals],
    *,
    in_stage: bool,
    delay: float,
    timeout: float,
) -> tuple[str, float]:
    """What came of it, in a word, and how many seconds after the signal.

    Args:
      command: what both processes run.
      victims: which process gets which signal.
      in_stage: whether to wait for the first batch before the signal, then for `delay` seconds.
      timeout: seconds from the signal to the end.
    """
    together = ["--distributed", f"--coordinator_address={free_address()}", "--num_processes=2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{root}", "JAX_PLATFORMS": "cpu"}
    environment |= {"PYTHONFAULTHANDLER": "1"}
    logs = [root / f"{number}.log" for number in range(2)]
    processes = []
    for number, log in enumerate(logs):
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command, *together, f"--process_id={number}"],
                env=environment | FEWER_OPTIMIZATIONS,
                stdout=output,
                stderr=output,
            )
        processes.append(process)
    end = time.monotonic() + 300
    while time.monotonic() < end and not all(CONNECTED in log.read_bytes() for log in logs):
        time.sleep(0.1)
    while in_stage and time.monotonic() < end and b"%|" not in logs[0].read_bytes():
        time.sleep(0.1)
    time.sleep(delay)
    early = [process.poll() for process in processes]
    for number, sent in victims.items():
        processes[number].send_signal(sent)
    start = time.monotonic()
    while time.monotonic() < start + timeout and any(p.poll() is None for p in processes):
        time.sleep(0.05)
    seconds = time.monotonic() - start
    statuses = [process.poll() for process in processes]
    if None in statuses:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGABRT)  # the process prints its stacks and ends
                process.wait()
        return f"hung {statuses}", seconds
    if early != [None, None]:
        return f"ended before the signal {early}", seconds
    saved = [re.findall(rb"step (\d+) is saved", log.read_bytes()) for log in logs]
    if statuses != [RESTART, RESTART] or saved[0] != saved[1]:
        return f"wrong {statuses} {saved}", seconds
    return "saved" if saved[0] else "ended", seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--stages", default="relabel,train,evaluate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60, help="seconds after the signal")
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    rng = random.Random(flags.seed)
    results: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_source(root / "source")
        (root / "config.py").write_text(CONFIG)
        (root / "slow_teacher.py").write_text(TEACHER)
        Preparing(root).reference()
        for trial in range(flags.trials):
            for stage in flags.stages.split(","):
                for numbers in ([rng.randrange(2)], [0, 1]):
                    victims = {number: rng.choice(SIGNALS) for number in numbers}
                    result, seconds = run_trial(
                        command(stage, root, trial),
                        root,
                        victims,
                        in_stage=trial % 4 > 0,  # one in four comes on the way to it
                        delay=rng.uniform(0, 5),
                        timeout=flags.timeout,
                    )
                    name = f"{stage}, to {'both' if len(victims) == 2 else 'one'}"
                    results[name][result] += 1
                    names = [sent.name for sent in victims.values()]
                    print(trial, name, *names, result, f"{seconds:.1f} s", flush=True)
                    if result.startswith(("hung", "wrong")):
                        for number in range(2):
                            print((root / f"{number}.log").read_text(errors="replace")[-9000:])
                    if flags.out:
                        flags.out.write_text(json.dumps(results, indent=2))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
