"""Training of the score model from preferences."""
