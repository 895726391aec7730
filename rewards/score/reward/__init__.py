"""The reward `score`: from completions to scores to rewards, and what is watched meanwhile."""
