"""PSL-2s: a student on the teacher's soft labels of 2 s segments of balanced AudioSet.

    python -m psl_jax.main --config configs/psl2s.py --workdir runs/psl2s \
        --config.data.data_dir=DIR --config.teacher=runs/teacher

The paper reports 35.48 mAP (table 2). `configs/psl2s.py:code` follows the published
code where it differs from the paper (docs/DATA.md).
"""

from ml_collections import ConfigDict

from psl_jax import config


def get_config(follow: str = "paper") -> ConfigDict:
    return config.student("psl2s", 2.0, follow)
