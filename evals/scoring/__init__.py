"""From predictions to numbers, each with its convention."""
