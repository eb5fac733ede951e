"""What trains a student: one class a stage, named by harness.methods. `base` is their frame."""
