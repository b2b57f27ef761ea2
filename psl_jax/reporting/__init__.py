"""Pages, charts and tables of runs, suites and data.

Here: what people look at after a run; it reads files of run folders. Not here: anything computed
from audio.
"""
