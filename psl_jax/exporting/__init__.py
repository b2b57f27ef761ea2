"""Exports models to ONNX, TFLite, StableHLO and PyTorch, and checks each in its own runtime.

Here: `formats`, how each is written and run, and the check against the Flax model. Not here: the
command (`commands`), file formats of weights that are read again (`weights`).
"""
