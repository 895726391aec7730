"""What the trainers of all stages share."""
