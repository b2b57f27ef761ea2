"""Pages, charts and tables of runs, suites and data.

Here: what people look at after a run; it reads files of run folders. `charts` says what is shown,
`drawing` draws it as SVG, and all colours stand in `templates/report.css`. Not here: anything
computed from audio.
"""
