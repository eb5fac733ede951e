"""Reading results: bundles of finished cells -> numbers -> tables, pages and figures.

It is imported as `harness.analysis`; inside `harness`, only commands and the Python API import it.
"""
