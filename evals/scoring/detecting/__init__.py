"""Detection: what is said of a picture against all true objects in it, with scores (`evals.scoring.detectors`) or
without (`score`)."""
