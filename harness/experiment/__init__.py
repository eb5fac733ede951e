"""What an experiment file says: its fields (experiment) and how it is read (file). No torch."""
