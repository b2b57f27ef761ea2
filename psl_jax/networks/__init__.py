"""The network and what is before it: front end, augmentation, MobileNetV2, folding.

Here: pure JAX, and `Model`, a network with its arrays and what is known of it. Not here: reading
and writing (`weights`), steps and losses (`training`).
"""
