"""Scores of segments and clips, and what is made of them: soft labels, metrics.

Here: the forward program, relabeling, evaluation. Not here: frames and events with times
(`tagging`).
"""
