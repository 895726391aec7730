"""From answers about tiles to a submission of whole scenes.

shifting     answers → objects in pixels of their scene
suppression  of two that overlap, one: what lies on a seam is found in two tiles
submission   the files that DOTA's server takes
merge        an evaluation's folder → a submission
judging      a submission → how good it is
whole        scenes → tiles → answers → submission
commands     the command line of launch/detect.py
"""
