"""The documentation site, made by `make docs` with MkDocs from the files that GitHub shows, too.

- `__main__`: builds the site, as `make docs` does.
- `hooks`: what MkDocs calls: which files belong to the site, and what is changed in their text.
- `files`: the files that pages link to, wherever in the project they lie.
- `results`: a page for each experiment with committed numbers.
- `reference`: the pages that no file holds: the command line, the fields of an experiment file,
  the files of a cell, and the API.
- `embeddings`, `pictures`: the pictures of docs/method.md, which are committed.
"""
