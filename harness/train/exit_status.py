"""Exit statuses of a process that trains one cell."""

# STOPPED: it was asked to stop, and did so at a checkpoint. BUSY: another process trains the cell.
# NO_MEMORY: it has failed, because the device or the machine has too little memory.
DONE, FAILED, WRONG_INPUT, STOPPED, BUSY, NO_MEMORY = range(6)
