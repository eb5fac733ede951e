"""The commands from start to end: options, session, grid, display, estimate, inspection, repair."""
