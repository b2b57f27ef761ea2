"""Whatever tags audio, as a teacher: a run of ours, published networks, files of other runtimes.

Here: how a teacher is named and opened, its classes on the data's, the kinds of teachers, several
as one, and what the commands share that put one on a data set. Not here: what is done with scores
(`scoring`), our own network (`model`), label files (`label_files`).
"""
