"""The baseline: the student's network on the weak labels of balanced AudioSet.

    python -m psl_jax.main --config configs/weak.py --workdir runs/weak --config.data.data_dir=DIR

The paper reports 17.69 mAP (table 2).
"""

from ml_collections import ConfigDict

from psl_jax import config


def get_config() -> ConfigDict:
    result = config.base()
    result.name = "weak"
    return result
