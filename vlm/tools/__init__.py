"""Tools that a model may call while it answers, and the conversations that come of it.

calls.py      the text of a call, written and read
tool.py       what a tool is: a function of the user's, or our own; what it is told, and what it gives back
zoom.py       `image_zoom_in`: a region of the original picture, at full resolution
toolbox.py    the tools of a recipe: found by name, described to the model, called with a time limit
dialogue.py   one conversation: pictures shown so far, turns, and who says what next
chains.py     conversations that are known already (SFT, controls): calls written, regions cut out

A turn is what the model or a tool says in one go; only the model's turns are learned from. Form and order of the turns
are RSCoVLM's (VisionXLab/RSCoVLM): the model ends a turn with a call, the answer comes as a user's turn, which begins
with the pictures that the tool gave back.
"""
