"""Trained networks in use: loaded with their preprocessing, applied, measured, exported.

model.py  a network and the preprocessing of its images
predict.py, measure.py, graph.py  `harness predict`, `evaluate` and `export`
import_checkpoint.py, published_file.py  `harness import-checkpoint`

harness.run.find_model finds the network of an experiment, a cell, a path or a models:/ URI.
"""
