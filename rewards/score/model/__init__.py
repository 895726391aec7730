"""The score model: what it reads, its weights, its forward passes."""
