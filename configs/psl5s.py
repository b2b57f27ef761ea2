"""PSL-5s: a student on the teacher's soft labels of 5 s segments of balanced AudioSet.

    python -m psl_jax.main --config configs/psl5s.py --workdir runs/psl5s \
        --config.data.data_dir=DIR --config.teacher=runs/teacher

The paper reports 34.11 mAP (table 2). `configs/psl5s.py:code` follows the published
code where it differs from the paper (docs/DATA.md).
"""

from ml_collections import ConfigDict

from psl_jax import config


def get_config(follow: str = "paper") -> ConfigDict:
    return config.student("psl5s", 5.0, follow)
