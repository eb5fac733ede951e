"""The training of one cell; it needs no MLflow, Optuna or Typer.

- `cell`: trains one cell from its directory, in this process; `exit_status`: how it ends.
- `loop`: the only training loop, for every kind of cell; `methods`: what a kind adds to it.
- `initial`: the weights that a training starts from.
- `steps`, `graphs`: the steps of an epoch; the same as CUDA graphs, which launch them at once.
- `optimizer`, `schedule`: the optimiser, and learning rates as functions of the epoch.
- `augment`: the random operations on images that a cell's settings ask for.
- `predictions`: the predicted class of each test image, which every cell stores.
- `evaluate`: accuracies of the classifier and of the nearest class mean, in both published forms.
- `checkpoint`: weights, written and read; `device`: the choice of the device; `memory`: the line
  about a cell that its memory does not hold.
- `data_request`: which data set a cell needs, by its directory alone.
- `teacher_cache`: outputs of a teacher, computed once for all cells that need them.

An epoch's randomness follows from (seed, epoch) alone, so a resumed cell needs no generator
states.
"""
