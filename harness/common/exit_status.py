"""Exit statuses of the `harness` command."""

# OK: everything is done. FAILED: a cell failed, or a check found a difference. WRONG_USE: wrong
# input; nothing was started. UNFINISHED: the time given by --max-time is over. UNCONFIRMED: a check
# found no difference, but confirmed nothing either. INTERRUPTED: by Ctrl-C or another signal
# (harness.common.signals); then, and after UNFINISHED, the same command resumes.
OK, FAILED, WRONG_USE, UNFINISHED, UNCONFIRMED, INTERRUPTED = 0, 1, 2, 3, 4, 130
