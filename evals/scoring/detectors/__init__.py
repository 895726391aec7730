"""Detectors that score what they find, from the files that they leave: DOTA submissions and COCO results.

truth           the true objects of a DOTA folder or a COCO file
submission      DOTA's Task1_<class>.txt and Task2_<class>.txt, in a folder or zipped
results         COCO's list of results
cut             where scores are cut off, so that a detector stands beside a model that has none (AP_nc)
scored          the numbers
command         `launch/detect.py score`
"""
