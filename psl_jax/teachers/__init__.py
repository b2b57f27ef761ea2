"""Teachers: our runs, published networks, files of other runtimes, and Python functions.

Here: the names of teachers, opening them, matching their classes with the data's, and
the flags of the commands that score a data set. Not here: the use of scores (`scoring`), our own
network (`networks`), label files (`label_files`).
"""
