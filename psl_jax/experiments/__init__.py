"""One experiment, its stages and its folder; suites, over seeds and folds; the paper's tables.

Here: what decides which stage runs on what. `experiment` has the stages, `labelling` the soft
labels, `run_binding` what a folder is bound to; `suite`, `seeds` and `folds` run several; `paper`
and `transfer` are configs. Not here: training, scoring and relabeling themselves, nor the settings
(`psl_jax.config`).
"""
