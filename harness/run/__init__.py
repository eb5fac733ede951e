"""What a command does from start to end: its session, the grid, display, costs, report."""
