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
    result.data.full_clips, result.data.balanced_clips, result.data.eval_clips = 1200, 200, 300
    result.model.width = 0.25
    result.train.batch_size = 16
    result.train.learning_rate = 2e-3
    result.train.epochs = 30
    result.train.patience = 8
    result.evaluate.batch_size = 32
    result.experiments = config.paper_suite({"train": {"epochs": 10}})
    return result
