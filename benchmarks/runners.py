"""Timing: things that can be run n times, in alternating rounds."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


@dataclasses.dataclass
class Runner:
    """A prepared program.

    run(n) runs it n times and waits for the end. Costs are those of one run; None is unknown.
    result() is what a run gives, as an array; None where that is of no interest.
    """

    name: str
    run: Callable[[int], None]
    compile_seconds: float | None = None
    peak_bytes: float | None = None
    flops: float | None = None
    bytes: float | None = None
    result: Callable[[], np.ndarray] | None = None
    rates: list[float] = dataclasses.field(default_factory=list)  # runs a second, one a round
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)  # of a run, one a round
    repeats: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long to measure: alternating rounds of about `round_seconds`, within `case_seconds`."""

    rounds: int = 5
    round_seconds: float = 0.4
    case_seconds: float = 30.0
    pause_seconds: float = 0.0  # lets the other library's spinning threads go to sleep


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeated(
    step: Callable[[], object], at_once: int = 1, in_thread: Callable[[], object] | None = None
) -> Callable[[int], None]:
    """run(n) of a step that waits for its end, by `at_once` threads, begun with `in_thread`."""

    def run(times: int) -> None:
        if at_once == 1:
            for _ in range(times):
                step()
            return
        with ThreadPoolExecutor(at_once, initializer=in_thread) as pool:
            for done in [pool.submit(step) for _ in range(times)]:
                done.result()

    return run


def calibrate(runner: Runner, schedule: Schedule) -> None:
    """Warms a runner up and chooses how often it is run in a round."""
    runner.run(1)
    once = seconds_of(lambda: runner.run(1))
    if once < schedule.round_seconds / 4:
        once = seconds_of(lambda: runner.run(3)) / 3
    runner.repeats = max(1, round(schedule.round_seconds / once))


def alternate(runners: list[Runner], schedule: Schedule) -> None:
    """Times the runners in turn, round after round, so that all see the same machine.

    Each is first run untimed, for a quarter of a round: on a CPU a first run after another
    library's takes up to three times as long, as its memory went back to the system meanwhile.
    """
    start = time.perf_counter()
    for number in range(schedule.rounds):
        # Every other round backwards: no runner always follows the same one.
        for runner in runners[:: 1 if number % 2 == 0 else -1]:
            time.sleep(schedule.pause_seconds)
            runner.run(max(1, runner.repeats // 4))
            cpu = time.process_time()
            elapsed = seconds_of(lambda runner=runner: runner.run(runner.repeats))
            runner.cpu_seconds.append((time.process_time() - cpu) / runner.repeats)
            runner.rates.append(runner.repeats / elapsed)
        if number and time.perf_counter() - start > schedule.case_seconds:
            return


def ratio(ours: Runner, other: Runner) -> float:
    """Median over rounds of ours / other."""
    return statistics.median(a / b for a, b in zip(ours.rates, other.rates, strict=True))
