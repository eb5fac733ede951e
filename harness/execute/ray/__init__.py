"""Cells on a Ray cluster (docs/scaling.md).

- `cluster`: finds a cluster and its room for cells; `options`: the options of the command,
  without importing Ray.
- `executor`: submits cells as tasks, and holds the leases of those that are transferred.
- `node`: the task itself, on a node; `transfer`: the files of a cell on their way; `datasets`:
  data sets that a node does not have.
"""
