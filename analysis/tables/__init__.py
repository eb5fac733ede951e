"""Tables of a bundle: `rows` says which numbers, `results` and `runs` write them in Markdown."""
