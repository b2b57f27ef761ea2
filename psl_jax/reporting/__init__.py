"""Pages, figures and tables of runs, suites and data.

Here: what people look at after a run; it reads files of run folders. `charts`, `suite_figures` and
`label_figures` say what is shown, `plots` how a figure is described once for all its forms:
`drawing` makes its SVG, `pictures` its PNG and CSV. All colours stand in `templates/report.css`.
`listening` keeps clips with their sound. Not here: anything that is scored.
"""
