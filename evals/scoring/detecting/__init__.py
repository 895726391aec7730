"""Detection: what is said of a picture against all true objects in it (`score`), with scores (`evals.detectors`) or
without."""
