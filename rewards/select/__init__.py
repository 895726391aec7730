"""Best-of-N: draw many answers once, let several selectors choose, and plot how well each does (`launch/bon.py`)."""
