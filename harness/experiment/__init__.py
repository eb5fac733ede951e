"""The fields of an experiment file, and how it is read. Nothing here imports torch.

- `experiment`: the fields and their defaults; `optimizer`: those of its section; `protocol`: the
  switches of the protocol and its presets; `releases`: the settings that a release's preset
  supplies beside the switches; `tasks`: classes and images of teacher and students; `pairs`:
  teachers with a student each, as columns; `tuned`: settings for one method alone; `claims`: what
  the author expects; `identity`: what makes two experiments one grid in MLflow.
- `file`: reads a file or plain data, reports errors in one line; `sources`: files that extend one
  another, and `--set`; `plain_yaml`: YAML without surprises.
- `published`: the CSV file of published numbers; `ablation`: the protocols between
  `legacy-2021` and `strict`.
- `schema`: the JSON schema for editors; `example`: the file that `harness init` writes.

To rename a setting, see docs/extending.md: its key in fingerprints stays.
"""
