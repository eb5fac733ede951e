"""Tables of a bundle.

- `rows`: which rows and columns there are, and the numbers behind each cell.
- `result_table`: the table as data, with typed cells; every format is a renderer of it.
- `accuracy`, `classes`, `comparisons`: the tables themselves; `caption`: what stands below them;
  `runs`: the runs behind a number; `curves`: their epochs, as a small figure and a table.
- `paper_form`: a summary in the form of a published table of other data.
- `pages`: which tables a page shows; `markdown`, `terminal`, `csv_and_latex`: the renderers.
"""
