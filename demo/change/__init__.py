"""The change demo: pairs of scenes in which one thing came or went, told in words, and masks of things as text."""
