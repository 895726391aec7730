"""Procedural scenes: what is in them, how they look, what can be asked about them."""
