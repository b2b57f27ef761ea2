"""Soft labels in files that others write and read.

Here: the formats, whose clips and classes a file is of, import and export. Not here: the folder of
label shards that training reads (`data`), what labels are worth (`scoring`).
"""
