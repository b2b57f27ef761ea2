"""How well the labels of a teacher that was trained elsewhere teach.

    python -m psl_jax.main --config configs/real_teacher.py --config.data.source_dir=FOLDER \
        --config.teacher=mn:mn10_as.pt --config.relabel.class_map=CSV --seeds 0,1,2

PSL on segments of 10, 5 and 2 s with the labels as they are, and with half of the weak labels.
docs/TEACHERS.md has the kinds of teachers.
"""

from ml_collections import ConfigDict

from psl_jax import config
from psl_jax.config import STUDENTS
from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    result = config.base()
    result.name = "real_teacher"
    result.teacher = "runs/teacher"
    config.set_nested(result, paper_tables.OWN_DATA)
    result.experiments.weak = {"labels": "weak"}
    for name, seconds in STUDENTS.items():
        result.experiments[name] = {"labels": "soft", "segment_seconds": seconds}
        result.experiments[f"{name}_half"] = {**result.experiments[name], "alpha": 0.5}
    return result
