"""File layouts: each turns rows on disk into plain dictionaries with the keys of `vlm.samples.Sample`."""
