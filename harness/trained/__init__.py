"""Trained networks in use: loaded with their preprocessing, asked, measured, exported.

model.py  the network and how a picture becomes its input
predict.py, measure.py, graph.py  what `harness predict`, `evaluate` and `export` do

Which network is meant by an experiment, a cell, a path or a models:/ URI: harness.run.find_model.
"""
