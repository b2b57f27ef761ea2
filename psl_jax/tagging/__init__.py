"""Tags with times for any audio file: frames, events, output, pictures.

Here: the Tagger, recordings of any length, thresholds of events and their defaults (`events`). Not here: the command
(`psl_jax.tag`) and the page (`web`).
"""
