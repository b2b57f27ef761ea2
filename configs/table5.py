"""The paper's table 5: the teacher (MA) and PSL-2s with new classifiers on other data sets.

    python -m psl_jax.main --config configs/table5.py --config.data.data_dir=DATA \\
        --config.teacher=runs/table4/teacher --config.init_from=runs/table4/full_psl2s

DATA holds FSD50K, FSDKaggle2018 and FSDKaggle2019, as `psl-jax prepare --data_dir DATA` puts them
there. Only the classifier is trained, on the frozen network's features, and the whole clip is
evaluated in one pass.
"""

from ml_collections import ConfigDict

from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    return paper_tables.table5()
