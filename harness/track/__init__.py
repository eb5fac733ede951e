"""Journals to MLflow and other trackers. `harness sync` can rebuild all of it.

- `sync`: which cells are sent to MLflow, and when; `cell_run`, `grid_run`: what the run of a cell
  and of a whole grid holds; `run_fields`: the fields of a cell's run in any tracker.
- `sync_state`: which runs already hold a cell; `lost_runs`: which of them MLflow has lost.
- `client`: the only way to MLflow; `asking`: how long a server may be silent;
  `environment`: which MLflow, and how its client behaves;
  `mlflow_private`: everything that is private in MLflow and used here.
- `database_file`: MLflow's SQLite file, which is made, checked and moved with the project.
- `registry`, `mlflow_model`: teachers in the model registry, and a network as an MLflow model.
- `saved_views`, `ui`: columns, charts and the addresses that `harness ui` prints;
  `places`: the order of runs there, and the pages of curves; `system_metrics`: MLflow's own.
- `mirror`, `mirrors`: trackers besides MLflow, and what they share.

Training never waits for a tracker. All trackers read the same journals, so one can be added at
any time.
"""
