"""Modules that every package may use. They import no other package of the project.

- `errors`: the exception that users see, in one line; `exit_status`: the statuses of the command.
- `names`, `output`, `redaction`: names in messages, output that cannot stop a command, secrets
  that no message shows; `columns`: lists as columns of text; `durations`: durations as text.
- `metrics`: the names of what is measured, and the selection rules.
- `canonical_json`: plain data as one exact text, for fingerprints; `npz`: arrays that somebody may
  have damaged; `provenance`: the code and machine behind a number.
- `locks`: locks that end with their process; `reading`: files in whose place there may be something
  else; `files`: files that are written completely or not at all; `temporary`: names of what is
  written aside; `os_errors`: what the system refuses, in a line.
- `database`: PostgreSQL by URL; `signals`: signals that ask to stop; `memory`: of this machine.
"""
