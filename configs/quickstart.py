"""The whole of PSL on generated soundscapes: teacher, weak baseline, PSL-10s, PSL-5s, PSL-2s.

    python -m psl_jax.main --config configs/quickstart.py

needs no data and takes minutes on two CPU cores; the table it prints is also in
runs/quickstart/results.json, and with curves in runs/quickstart/report.html.
"""

from psl_jax import config


def get_config():
    result = config.base()
    result.name = "quickstart"
    result.data.corpus = "soundscapes"
    result.data.full_clips, result.data.balanced_clips, result.data.eval_clips = 800, 80, 300
    result.model.width, result.model.dropout = 0.125, 0.0
    result.train.batch_size = 8
    result.train.learning_rate = 2e-3
    result.train.epochs = 15
    result.train.schedule, result.train.decay_power = "polynomial", 1.0
    result.evaluate.batch_size = result.relabel.batch_size = 32
    # Augmentation needs more steps than this to pay, and without it the teacher and the students
    # on 10 s share one compiled program.
    off = {name: 0 for name in config.TEACHER["augment"] if "masks" in name}
    off |= {name: 0.0 for name in config.TEACHER["augment"] if "masks" not in name}
    # Twice an epoch, so that the four best checkpoints are late ones.
    teacher = {"train": {"epochs": 8, "validate_every": 50}, "augment": off}
    result.experiments = config.paper_suite(teacher)
    return result
