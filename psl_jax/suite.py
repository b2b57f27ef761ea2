"""All experiments of a config, one after the other, and the table that compares them."""

import os
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from psl_jax import config as config_lib
from psl_jax.data.settings import DataSettings
from psl_jax.experiment import Experiment
from psl_jax.reporting import pages
from psl_jax.runtime import files, parallel
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.run_folder import LABEL_QUALITY
from psl_jax.scoring import evaluation

RESULTS = "results.json"


def run(config: ConfigDict, workdir: str | os.PathLike, last_stage: str | None = None) -> None:
    """Runs what is not finished yet in `workdir` and prints the results and where they lie.

    A single experiment has `workdir` as its run folder; those of a suite have one each inside it.
    """
    start = time.perf_counter()
    workdir = pathlib.Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(
            f"--workdir={workdir} is a file: give a folder, which need not be there yet"
        )
    experiments = config_lib.experiments(config)
    is_suite = bool(len(config.experiments))
    data_dir = _prepare(next(iter(experiments.values())).data, workdir)
    if last_stage == "prepare":
        return
    runs = []
    for name, one in experiments.items():
        folder = workdir / name if is_suite else workdir
        teacher = workdir / one.teacher if one.teacher in experiments else None
        runs.append(Experiment(one, folder, data_dir, teacher))
        if is_suite and jax.process_index() == 0:
            print(f"\n== {name} ({len(runs)} of {len(experiments)}) in {folder}", flush=True)
        runs[-1].run(last_stage)
    if last_stage in (None, "evaluate", "report") and jax.process_index() == 0:
        _summarize(config.name, workdir, runs, is_suite, time.perf_counter() - start)


def _prepare(data: DataSettings, workdir: pathlib.Path) -> str:
    if data.corpus == "packed":
        return data.data_dir
    from psl_jax.preparing.prepared import prepare

    if jax.process_index() == 0:
        prepare(data, workdir)
    parallel.wait_for_all("prepare")
    return prepare(data, workdir, quiet=True)


def _summarize(
    name: str,
    workdir: pathlib.Path,
    runs: list[Experiment],
    is_suite: bool,
    seconds: float,
) -> None:
    rows = [run.summary() for run in runs]
    results: dict[str, Any] = {"name": name, "experiments": rows}
    quality = {
        run.settings.name: files.read_json(run.run_dir / LABEL_QUALITY)
        for run in runs
        if (run.run_dir / LABEL_QUALITY).exists()
    }
    if quality:
        results["label_quality"] = quality
    print("\n" + pages.format_table(results))
    if is_suite:
        files.write_json(workdir / RESULTS, results)
        pages.write_suite_report(workdir, results)
    places = {
        "report": workdir / "report.html",
        "results": workdir / (RESULTS if is_suite else evaluation.METRICS),
        "averaged model" + "s" * is_suite: workdir / ("*/averaged" if is_suite else "averaged"),
    }
    print(f"\nfinished in {seconds / 60:.1f} min")
    for what, place in places.items():
        print(f"  {what}: {place}")
