"""Code that every package may use: errors, names, output, provenance, canonical JSON."""
