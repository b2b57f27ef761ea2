"""Rows of a corpus into checked shards, with a report of what was left out.

Here: the builder, shards, threads and Beam workers, the report. Not here: the command
(`commands`), what a corpus looks like (`corpora`), reading what was prepared (`data`).
"""
