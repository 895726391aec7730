"""What a report reads of the runs."""
