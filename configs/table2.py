"""The paper's table 2: weak labels, PSL-10s, PSL-5s and PSL-2s on balanced AudioSet.

    python -m psl_jax.main --config configs/table2.py --config.data.data_dir=DATA
    python -m psl_jax.main --config configs/table2.py --config.teacher=published.pt ...
    python -m psl_jax.main --config configs/table2.py:soundscapes    # or :own_data

The first trains the teacher too, on the full set; the second takes a finished one.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config(data: str = "audioset") -> ConfigDict:
    return paper_tables.table2(data)
