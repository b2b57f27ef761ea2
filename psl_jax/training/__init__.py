"""Training: the step, the loop, checkpoints, the log.

Here: all that changes a network's arrays; `settings` holds the defaults, `loop` makes the steps and
decides when to log, validate, save and stop. Not here: the network (`networks`), batches (`data`).
"""
