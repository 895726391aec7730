"""Single training steps, kept in the run folder and computed again."""
