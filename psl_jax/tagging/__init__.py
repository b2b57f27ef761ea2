"""Tags with times for any audio file: frames, events, output, plots.

Here: the Tagger, recordings of any length, events with their thresholds and defaults (`events`).
Not here: the command (`commands`) and the page (`web`).
"""
