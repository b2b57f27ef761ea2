"""The paper's table 4: PSL on Aud-300h and on the full AudioSet, beside the teacher.

    python -m psl_jax.main --config configs/table4.py --config.data.data_dir=DATA
    python -m psl_jax.main --config configs/table4.py:soundscapes    # or :own_data

DATA has the splits balanced, eval, full and aud300h (psl-jax prepare --splits).
`--config.teacher=published.pt` takes a finished teacher. On other data the smaller set is the
balanced one.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config(data: str = "audioset") -> ConfigDict:
    return paper_tables.table4(data)
