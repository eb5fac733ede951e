"""Journals to MLflow and other trackers. `harness sync` can rebuild all of it.

- `sync`: the run of a cell in MLflow; `grid_run`: the run of a whole grid; `run_fields`: what any
  tracker shows of a cell.
- `sync_state`: which runs already hold a cell; `lost_runs`: which of them MLflow has lost.
- `client`: the only way to MLflow; `environment`: which MLflow, and how its client behaves;
  `mlflow_private`: everything that is private in MLflow and used here.
- `database_file`: MLflow's SQLite file, which is made, checked and moved with the project.
- `registry`, `mlflow_model`: teachers in the model registry, and a network as an MLflow model.
- `saved_views`, `ui`: columns, charts and the addresses that `harness ui` prints;
  `system_metrics`: MLflow's own.
- `mirror`, `mirrors`: trackers besides MLflow, and what they share.

Training never waits for a tracker. All trackers read the same journals, so one can be added at
any time.
"""
