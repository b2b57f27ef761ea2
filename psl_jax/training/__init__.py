"""Training: the step, two ways to feed it, the loop, the schedule, checkpoints, the log.

Here: all that changes a network's arrays; `settings` holds the defaults, `loop` decides when to
log, validate, save and stop, `stepper` makes the steps. Not here: the
network (`model`), batches (`data`).
"""
