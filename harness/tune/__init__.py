"""`harness tune`: search for settings with Optuna, on the validation split only.

- `tuning_file`, `space`: what a tuning file may say (docs/tuning.md); neither imports torch or
  Optuna.
- `search`: the command from start to end; `interleave`: several methods at once; `halving`:
  pruning inside a batch.
- `study`: one Optuna study per method; `storage`: its journal or database; `trials`: the cells of
  a trial; `winner`: the best trials, trained again.
- `export`: a study as JSON lines; `tracker`: a tuning in MLflow; `dashboard`: Optuna's dashboard.
"""
