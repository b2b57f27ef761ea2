"""Reads and writes models, with a module for each file format; `load_model` selects the format.

Here: Orbax folders, safetensors files, PyTorch state dicts. Not here: checkpoints of a training
(`training`), files for other runtimes (`exporting`).
"""
