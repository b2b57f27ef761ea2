"""The teacher (machine annotator) of the paper: MobileNetV2 on the weak labels of full AudioSet.

    python -m psl_jax.main --config configs/teacher.py --workdir runs/teacher \
        --config.data.data_dir=DIR

DIR is a prepared AudioSet. The paper reports 40.53 mAP on the evaluation set (table 4).
"""

from ml_collections import ConfigDict

from psl_jax import config


def get_config() -> ConfigDict:
    return config.teacher()
