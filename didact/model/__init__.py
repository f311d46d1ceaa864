"""transformers models: loading, attention, tuning, saving."""
