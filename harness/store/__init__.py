"""One directory a cell, named by its fingerprint: the truth from which everything is rebuilt.

cell.json         what the cell is (kind, spec, upstream)
options.json      what a training needs to know of this machine: where the data lie, ...
pause             the epoch after which training pauses (harness tune); without it, it goes on
lease             held with flock by the process that trains it, and by nobody after its death
journal.jsonl     append-only, fsynced: start, epoch, failed, end events
checkpoint.pt     to go on from the last epoch; deleted when the cell is done
checkpoint.sha256 its digest, newest first (two lines while it is being replaced)
model.pt          the selected weights, in the format of the published checkpoints
predictions.npz   what they say of each test image (only where there is a classifier and a test set)
manifest.json     written last: the cell is done, with its results and provenance
mlflow.json       which MLflow runs already hold it (derived; may be deleted)
log.txt           what the training process printed

Beside the cells: mlflow.json, the grids whose run in MLflow shows their result (derived too);
teacher-cache, tensorboard, wandb: folders of what their names say (derived, too).
"""

from harness.common.locks import Busy
from harness.store.cells import CellDir, Store

__all__ = ["Busy", "CellDir", "Store"]
