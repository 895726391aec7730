"""The detection demo: the demo world's things, up to six in a picture and smaller, all of which are to be found.

scene.py    scenes with none to six things of six classes
"""
