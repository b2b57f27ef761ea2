"""The whole of PSL on generated soundscapes: teacher, weak baseline, PSL-10s, PSL-5s, PSL-2s.

    python -m psl_jax.main --config configs/quickstart.py

needs no data and takes minutes on two CPU cores; the table it prints is also in
runs/quickstart/results.json, and with curves in runs/quickstart/report.html.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    result = paper_tables.table2("soundscapes")
    result.name = "quickstart"
    return result
