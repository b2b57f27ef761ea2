"""Models read and written, one module a file format; `load.load_model` chooses.

Here: Orbax folders, safetensors files, PyTorch state dicts. Not here: checkpoints of a training
(`training`), files for other runtimes (`exporting`).
"""
