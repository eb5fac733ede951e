"""The trainings of students: one class per stage, named by harness.methods.

`base` holds what they share, `distillation` what methods that add to the cross-entropy share.
"""
