"""Finished cells to bundles, tables, figures, verdicts and the report.

- `export`: finished cells become JSON lines; `bundle`: lines become numbers; `bundle_fields`: the
  fields of these lines; `json_lines`: their reader; `growth`: a new bundle keeps the runs of the
  one that it replaces.
- `tables`: the numbers as tables, and their renderers; `figures`: one module per figure;
  `figures_on_pages`: their texts on the pages;
  `report`: one HTML page; `archive`, `archive_command`: all of it as one file for another lab.
- `verdicts`, `statistics`: claims, tested on differences paired by seed; `confirmations`: two
  verdicts on one claim; `reference`: your numbers beside the committed; `power`,
  `planned_power`: what a claim's test can show.
- `ablation_tables`: what each switch of the protocol is worth; `tuning`: figures of a study;
  `tuning_winners`: how many winners were not found at random.
- `generated_files`: everything that `harness tables` and `figures` write; `readme`: text between
  markers of a page; `published_numbers`: tables of the published numbers; `methods_page`:
  docs/methods.md; `mlflow_summary`: the result page in MLflow; `print_results`: what goes to a
  terminal.

Everything here can be made again from the store. The rest of `harness` does not import this
package, except the commands and `harness.api`, inside functions: training must not need tables.
It is a folder of its own in the repository and is imported as `harness.analysis`, so that a wheel
installs only one package.
"""
