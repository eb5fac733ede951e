"""One directory per cell, named by its fingerprint: the truth from which everything is rebuilt.

- `cells`: the store and its directories, with leases; `cell_files`: one reader per kind of file,
  which returns a valid object or says which file is damaged; `journal`, `predictions`: the readers
  of journal.jsonl, which may read what is new alone, and of predictions.npz.
- `manifest`: the contents of manifest.json and options.json.
- `checked`: which finished cells were found whole, so that their files need not be read again.
- `files`: files that are written whole or not at all; `teacher_cache`: the disk of the
  teacher-output cache.

    cell.json          what the cell is (kind, config, upstream cells)
    options.json       what a training needs to know of this machine, such as the folder of the data
    pause              the epoch after which training pauses (harness tune)
    lease              an flock, held by the process that trains the cell and released by its death
    journal.jsonl      append-only, fsynced, checksum per line: start, epoch, failed, end
    checkpoint.pt      to resume from the last epoch; deleted when the cell is done
    checkpoint.sha256  its digest, newest first (two lines while it is being replaced)
    model.pt           the selected weights, in the format of the published checkpoints
    predictions.npz    the predictions on the test images, if there is a test set
    manifest.json      written last: the cell is done, with results, provenance and a checksum
    mlflow.json        the MLflow runs that already hold the cell (derived; may be deleted)
    log.txt            the output of the training process

Beside the cells, and derived as well: mlflow.json (the grids whose MLflow run shows their result),
checked.json (see `checked`) and the folders teacher-cache, tensorboard and wandb.
"""

from harness.common.locks import Busy
from harness.store.cells import CellDir, Store

__all__ = ["Busy", "CellDir", "Store"]
