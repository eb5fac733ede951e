"""Exit statuses of a process that trains one cell."""

# STOPPED: it was asked to stop, and did so at a checkpoint. BUSY: another process trains the cell.
DONE, FAILED, WRONG_INPUT, STOPPED, BUSY = range(5)
