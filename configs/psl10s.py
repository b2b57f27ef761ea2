"""PSL-10s: a student on the teacher's soft labels of 10 s segments of balanced AudioSet.

    python -m psl_jax.main --config configs/psl10s.py --workdir runs/psl10s \
        --config.data.data_dir=DIR --config.teacher=runs/teacher

The paper reports 31.13 mAP (table 2). `configs/psl10s.py:code` follows the published
code where it differs from the paper (docs/DATA.md).
"""

from ml_collections import ConfigDict

from psl_jax import config


def get_config(follow: str = "paper") -> ConfigDict:
    return config.student("psl10s", 10.0, follow)
