"""The networks and what is before them: front ends, augmentation, MobileNetV2, mn, folding.

Here: pure JAX, and `Model`, a network with its arrays and what is known of it. `architecture` says
what a network is to all other code. Not here: reading and writing (`weights`), steps (`training`).
"""
