"""The config of a suite of two small experiments, for runs that are killed.

Without another setting they save at validations alone: a checkpoint takes longer than a step.
"""

CONFIG = """
from psl_jax import config

def get_config():
    result = config.base()
    result.data.corpus = "tfds"
    result.segment_seconds = 1.0
    result.model.width = 0.1
    result.train.batch_size = result.evaluate.batch_size = 4
    result.train.learning_rate = 1e-2
    result.train.epochs, result.train.log_every, result.train.checkpoint_every = 2, 1, 1000
    result.experiments = {
        "teacher": {"labels": "weak"},
        "psl2s": {"labels": "soft", "teacher": "teacher"},
    }
    return result
"""
