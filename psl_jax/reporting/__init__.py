"""Pages, figures and tables of runs, suites and data.

Here: what people look at after a run; it reads files of run folders. `result_figures`
says what is shown, `figures` draws it. The colours of pages
stand in `templates/report.css`. `audio_examples` keeps clips with their sound. Not here: anything
that is scored.
"""
