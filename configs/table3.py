"""The paper's table 3: weak labels alone and half mixed with soft ones, on three segment lengths.

    python -m psl_jax.main --config configs/table3.py --config.data.data_dir=DATA
    python -m psl_jax.main --config configs/table3.py:soundscapes    # or :own_data

`--config.teacher=published.pt` takes a finished teacher.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config(data: str = "audioset") -> ConfigDict:
    return paper_tables.table3(data)
