"""Cells on a Ray cluster (docs/scaling.md)."""
