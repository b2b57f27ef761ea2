"""One config over several seeds, and the table of their means and spreads."""

import copy
import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from psl_jax import suite
from psl_jax.reporting import pages, tables
from psl_jax.runtime import files
from psl_jax.runtime.errors import UserError

_AVERAGED = ("mAP", "d_prime", "AUC", "lwlrap", "mAP_at_3")


def read(text: str) -> list[int]:
    """The seeds of "0,1,2". Raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds={text}: expected different numbers, such as 0,1,2")
    return [int(part) for part in parts]


def run(
    config: ConfigDict,
    workdir: str | os.PathLike,
    seeds: Sequence[int],
    last_stage: str | None = None,
    start_afresh: bool = False,
) -> None:
    """Runs `config` once for each seed, in WORKDIR/seed<N>, on the same data; see `suite.run`.

    The seed is that of weights, order and augmentation; the data keeps its own.
    """
    workdir = pathlib.Path(workdir)
    found = []
    for number, seed in enumerate(seeds):
        one = copy.deepcopy(config)
        one.seed = seed
        if not one.data.data_dir:
            one.data.data_dir = os.fspath(workdir / "data")
        if jax.process_index() == 0:
            print(f"\n=== seed {seed} ({number + 1} of {len(seeds)})", flush=True)
        results = suite.run(one, workdir / f"seed{seed}", last_stage, start_afresh)
        if results is not None:
            found.append(results)
    if found:
        together = summary(found, seeds, bool(len(config.experiments)))
        files.write_json(workdir / suite.RESULTS, together)
        pages.write_suite_report(workdir, together)
        print(f"\nmean ± standard deviation over {len(found)} seeds\n")
        print(pages.format_table(together))
        print(f"\n  report: {workdir / 'report.html'}\n  results: {workdir / suite.RESULTS}")


def summary(
    found: Sequence[Mapping[str, Any]], seeds: Sequence[int], is_suite: bool
) -> dict[str, Any]:
    """The results of a suite over seeds: means, with spreads of mAP and of what it gains."""
    first = found[0]
    result = {k: v for k, v in first.items() if k not in ("experiments", "label_quality")}
    reference = result.get("reference", "weak")
    by_seed = [{row["name"]: row for row in one["experiments"]} for one in found]
    rows = []
    for row in first["experiments"]:
        same = [one[row["name"]] for one in by_seed]
        mean = {k: _mean([one.get(k) for one in same]) for k in _AVERAGED if row.get(k) is not None}
        gains = [
            one[row["name"]]["mAP"] - one[reference]["mAP"] for one in by_seed if reference in one
        ]
        merged = {k: v for k, v in row.items() if k not in ("over_reference", "seed")} | mean
        merged |= {
            "mAP_spread": _spread([one["mAP"] for one in same]),
            "gain_spread": _spread(gains),
            "mAP_by_seed": [one["mAP"] for one in same],
            "run_dir": f"seed{seeds[0]}" + f"/{row['name']}" * is_suite,
            "seconds": sum(one["seconds"] for one in same),
            "notes": tables.shared_notes(same),
        }
        rows.append(merged)
    return result | {"seeds": list(seeds), "experiments": rows}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
