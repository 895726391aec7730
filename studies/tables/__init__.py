"""Several seeds of several runs as one table: means with intervals, paired differences, published figures beside."""
