"""Journals -> MLflow. Everything here can be deleted and rebuilt with `harness sync`."""
