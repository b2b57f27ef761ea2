"""PSL-2s: a student on the teacher's soft labels of 2 s segments of balanced AudioSet.

    python -m psl_jax.main --config configs/psl2s.py --workdir runs/psl2s \
        --config.data.data_dir=DIR --config.teacher=runs/teacher

The paper reports 35.48 mAP (table 2).
"""

from psl_jax import config


def get_config():
    return config.student("psl2s", segment_seconds=2.0)
