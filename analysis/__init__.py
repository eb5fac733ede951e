"""What reads results: bundles of finished cells -> rows of numbers -> the README's tables and
figures.

`harness` never imports this package (but for the command line, inside its commands).
"""
