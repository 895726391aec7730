"""Curation: score an image-text corpus, keep the best share of it, and show what was kept (`launch/curate.py`)."""
