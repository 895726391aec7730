"""Each prompt computed once for all its completions."""
