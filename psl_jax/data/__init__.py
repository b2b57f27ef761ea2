"""Prepared data: what is known of a split, its records and soft labels, the order of training.

Here: index, shards, sources of clips, windows, batches. Not here: how recordings become records
(`corpora`, `preparing`), what is done with a batch.
"""
