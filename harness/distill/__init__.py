"""What a student learns from: pure functions of tensors, one file a loss."""
