"""What makes the labels of a teacher that was trained elsewhere teach well.

    python -m psl_jax.main --config configs/real_teacher.py --config.data.source_dir=FOLDER \
        --config.teacher=mn:mn10_as.pt --config.relabel.class_map=CSV --seeds 0,1,2

PSL on segments of 10, 5 and 2 s with the labels as they are, and with half of the weak labels; on
2 s also with the clip's weak labels as a prior, and with the teacher's logits shifted for each
class until it says as often as the weak labels that something sounds: over all segments (`rate`),
or over clips by their loudest segment (`clip_rate`). docs/TEACHERS.md has the kinds of teachers.
"""

import copy
from typing import Any

from psl_jax import config
from psl_jax.config import STUDENTS
from psl_jax.experiments import paper

WAYS: dict[str, dict[str, Any]] = {
    "prior": {"relabel": {"prior": 2.0}},
    "rate": {"relabel": {"calibrate": "rate"}},
    "clip_rate": {"relabel": {"calibrate": "clip_rate"}},
    "clip_rate_prior": {"relabel": {"calibrate": "clip_rate", "prior": 2.0}},
}


def get_config():
    result = config.base()
    result.name = "real_teacher"
    result.teacher = "runs/teacher"
    config.apply(result, paper.OWN_DATA)
    result.experiments.weak = {"labels": "weak"}
    for name, seconds in STUDENTS.items():
        result.experiments[name] = {"labels": "soft", "segment_seconds": seconds}
        result.experiments[f"{name}_half"] = {**result.experiments[name], "alpha": 0.5}
    for name, changes in WAYS.items():
        result.experiments[f"psl2s_{name}"] = {
            "labels": "soft",
            "segment_seconds": 2.0,
            **copy.deepcopy(changes),
        }
    return result
