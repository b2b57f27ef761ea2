"""Soft labels in files that others write and read, and soft labels edited by rules.

Here: the formats, whose clips and classes a file is of, import and export, the rules. Not here: the
folder of label shards that training reads (`data`), what labels are worth (`scoring`).
"""
