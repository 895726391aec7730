"""How questions are put to a model: here, on a server, in several turns, again with other seeds."""
