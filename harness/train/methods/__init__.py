"""What trains a student: one class a stage, named by harness.methods. `base` is their frame, and
`distillation` that of all that add terms to the cross-entropy."""
