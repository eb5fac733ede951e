"""One self-contained HTML page of a bundle.

- `command`: `harness report`; `page`: the page, from the template report.html.
"""
