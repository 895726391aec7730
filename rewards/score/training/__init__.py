"""Training of the score model from preferences.

recipe        what a recipe holds
stage         from a recipe to `final/`
preferences   the record and its files; tables: ScoreRS's parquet files
trainable     the model that is trained: frozen parts, adapters
trainer       Bradley-Terry loss on transformers' Trainer; replaying: one of its steps again
metrics       how well scores order candidates
planned       `--dry-run`
"""
