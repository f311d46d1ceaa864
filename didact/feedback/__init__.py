"""What people thought of a model's answers: kept, counted, weighed, and given back as training data."""
