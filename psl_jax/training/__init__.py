"""Training: the step, two ways to feed it, the loop, the schedule, checkpoints, the log.

Here: all that changes a network's arrays. Not here: the network (`model`), batches (`data`).
"""
