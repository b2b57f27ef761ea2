"""Soft labels in files that others write and read.

Here: the formats, the matching of a file's clips and classes with the data's, import and export.
Not here: the label shards that training reads (`data`), the quality of labels (`scoring`).
"""
