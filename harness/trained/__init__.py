"""Trained networks in use: loaded with their preprocessing, queried, measured, exported.

- `model`: a network, its classes, and how a picture becomes its input.
- `predict`, `measure`, `graph`: `harness predict`, `evaluate` and `export`.
- `import_checkpoint`: a file of weights that others have written becomes a cell.

`harness.run.find_model` decides which trained network an experiment, a cell, a path or a models:/
URI means.
"""
