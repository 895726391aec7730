"""Checkpoints that appear whole or not at all, and resumes that change nothing.

    packing      state as plain values and tensors, read without running code
    weights      weights into a live model, strictly
    manifest     which checkpoints are whole; the latest one
    folders      written aside, renamed, pruned
    resumable    the mixin for trainers
    beginning    the recipe's `resume:`: from where a run begins, and what a recipe may have changed since

docs/reliability.md says what is promised.
"""
