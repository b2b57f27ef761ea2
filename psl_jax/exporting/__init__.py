"""Models for other runtimes, each checked in its own: ONNX, TFLite, StableHLO, PyTorch.

Here: one module a format that writes and runs it, and the check against the Flax model. Not here:
the command (`commands`), file formats of weights that are read again (`weights`).
"""
