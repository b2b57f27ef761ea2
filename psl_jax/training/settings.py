"""How a network is trained."""

import dataclasses

from psl_jax.runtime.settings import operational, setting


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """config.train: how a network is trained. The defaults are the paper's for a student."""

    batch_size: int = setting(
        32,
        least=0,
        help="Segments per step, over all devices; 0: chosen by data size (1/16 of the segments, "
        "as a power of 2, 4 to 32)",
    )
    learning_rate: float = setting(
        1e-4, above=0, help="Initial learning rate of Adam; the published code: 1e-3"
    )
    backbone_learning_rate: float = setting(
        0.0,
        least=0,
        help="Initial learning rate of all layers but the classifier, for fine-tuning; 0: "
        "train.learning_rate",
    )
    trainable: str = setting(
        "all",
        choices=("all", "classifier"),
        help="What is trained: the whole network, or its classifier alone, while the rest and its "
        "BatchNorm statistics stay frozen",
    )
    schedule: str = setting(
        "constant",
        choices=("constant", "polynomial"),
        help="Course of the learning rate: constant, or a polynomial that falls to 0 at the last "
        "step",
    )
    decay_power: float = setting(
        2.0, above=0, help="Exponent of the polynomial schedule (our choice; the paper gives none)"
    )
    epochs: int = setting(
        300,
        least=1,
        help="Largest number of passes over the training split; min_steps may add more",
    )
    max_steps: int = setting(
        0,
        least=0,
        help="Exact number of steps, if given: overrides epochs and min_steps; 0: those decide",
    )
    min_steps: int = setting(
        0, least=0, help="Smallest number of steps; small sets get more epochs to reach it; 0: none"
    )
    sampling: str = setting(
        "uniform",
        choices=("uniform", "balanced", "weighted"),
        help="How segments are drawn: uniform: each once per epoch; balanced: classes take turns; "
        "weighted: random, rare classes more often",
    )
    validate_every: int = setting(
        10_000,
        least=1,
        help="Steps between validations, but never more than one epoch; with min_steps never more "
        "than the longer of one epoch and 1/50 of all steps",
    )
    checkpoint_every: int = operational(
        2_000, least=1, help="Steps between checkpoints; each validation also writes one"
    )
    checkpoint_minutes: float = operational(
        10.0,
        least=0,
        help="Largest time between checkpoints, in minutes; 0: only checkpoint_every counts",
    )
    log_every: int = operational(20, least=1, help="Steps between lines of train_log.jsonl")
    loggers: str = operational(
        "tensorboard",
        help="Where measurements go besides train_log.jsonl: names separated by commas, of "
        "tensorboard, wandb, trackio and mlflow; empty: nowhere",
    )
    patience: int = setting(
        15,
        least=0,
        help="Stop after this many epochs, and at least min_steps / 4 steps, without a better "
        "validation mAP; 0: never",
    )
    best_checkpoints: int = setting(
        4,
        least=1,
        help="Number of best checkpoints (by validation mAP) whose weights are averaged into the "
        "final model; published code: 1",
    )

    @property
    def backbone_factor(self) -> float:
        """By which the learning rate of all but the classifier differs from the classifier's."""
        return (self.backbone_learning_rate or self.learning_rate) / self.learning_rate

    def rate(self, step: int) -> float:
        """The learning rate of the step after `step` finished ones, of `max_steps`."""
        if self.schedule == "constant":
            return self.learning_rate
        left = max(0.0, 1 - step / self.max_steps)
        return float(self.learning_rate * left**self.decay_power)

    def in_steps(self, steps_per_epoch: float, batch_size: int) -> "TrainSettings":
        """The same for data of a size: max_steps is decided, and patience counts steps.

        With min_steps, epochs that are short beside it are no measure: then there are fifty
        validations at most, and the patience is at least a quarter of it.
        """
        epoch, least = max(1, round(steps_per_epoch)), self.min_steps
        max_steps = self.max_steps or max(1, round(self.epochs * steps_per_epoch), least)
        between = max(epoch, -(-max_steps // 50)) if least else epoch
        return dataclasses.replace(
            self,
            max_steps=max_steps,
            validate_every=min(self.validate_every, between),
            patience=max(self.patience * epoch, least // 4) if self.patience else 0,
            batch_size=batch_size,
        )
