"""Networks and labels side by side: MobileNetV2 from random weights, mn04 from published ones.

    python -m psl_jax.main --config configs/students.py --config.data.source_dir=FOLDER \
        --config.teacher=runs/teacher --seeds=0,1,2

FOLDER is as configs/own_data.py takes it, and the teacher any of docs/TEACHERS.md. Each network
learns from weak labels and from the teacher's on segments of 10, 5 and 2 s; the table holds it
against the same network on weak labels. Of mn04 a new classifier alone is trained. Half of the weak
labels stay with
--config.experiments.psl2s.alpha=0.5.
"""

import copy

from ml_collections import ConfigDict

from psl_jax import config
from psl_jax.experiments import paper_tables


def get_config() -> ConfigDict:
    result = config.base()
    result.name = "students"
    result.teacher = "runs/teacher"
    config.set_nested(result, paper_tables.OWN_DATA)
    labels = {"weak": {"labels": "weak"}} | {
        name: {"labels": "soft", "segment_seconds": seconds}
        for name, seconds in config.STUDENTS.items()
    }
    for prefix, start in {"": {}, "mn04_": config.FROM_MN04}.items():
        for name, changes in labels.items():
            result.experiments[prefix + name] = copy.deepcopy(changes | start)
    return result
