"""The training loop and what it needs: schedules, optimiser, checkpoints."""
