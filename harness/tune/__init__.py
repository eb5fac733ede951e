"""`harness tune`: Optuna over spec fields, on the validation split only (docs/tuning.md)."""
