"""What every program stands on: devices, processes, files, errors, progress.

Here: the mesh and what is mapped over it, joining processes, entry points' manners, files that are
whole or not there, tables, disks that are full. Not here: anything that knows of audio or labels.
"""
