"""Journals -> MLflow and other trackers, all of which `harness sync` can rebuild."""
