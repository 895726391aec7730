"""Supervised stage: reasoning traces by next-token prediction on the assistant's turns."""
