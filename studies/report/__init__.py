"""Runs as one HTML file that stands by itself (`launch/report.py`)."""
