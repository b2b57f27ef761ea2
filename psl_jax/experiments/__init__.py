"""One experiment, its stages and its folder; suites, over seeds and folds; the paper's tables.

Here: what decides which stage runs on what. `experiment` has the stages, `soft_label_stage` the
soft labels, `training_steps` what trains, `run_folder` what a folder is bound to; `suite` runs
several, and `suite_results` compares them; `paper_tables` has configs. Not here: training, scoring
and relabeling themselves, nor the settings (`psl_jax.config`).
"""
