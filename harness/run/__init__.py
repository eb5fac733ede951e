"""The commands that train or inspect trainings, from start to end.

- `grid`: `harness run`; `ablate`: `harness ablate`; `options`: the options of these commands,
  made once and handed down.
- `session`: what commands that train share: signals, exit statuses, and trackers that are kept up
  to date.
- `display`: the live table or plain lines; `devices`: what a command may know of its devices.
- `networks`: whether the networks can be built and suit images and methods, before anything trains.
- `estimate`: time, disk and `--budget`; `speeds`: what it is made from; `measure`: the steps that
  are timed, in a process of their own.
- `inspect`: `plan`, `status` and `explain`; `doctor`: what this machine has; `repair`: what a
  damaged cell can keep.
- `find_model`: which trained network an experiment, a cell, a file or a models:/ URI means.
"""
