"""Exit statuses of the `harness` command."""

# OK: everything is done. FAILED: a cell failed, or a check found a difference. WRONG_USE: wrong
# input; nothing was started. UNFINISHED: the time given by --max-time is over. INTERRUPTED: by
# Ctrl-C or SIGTERM. After the last two, the same command resumes.
OK, FAILED, WRONG_USE, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 130
