"""The detection demo: pictures with none to six things of six classes, all of which are to be found.

scene.py     scenes: the demo world's things, smaller, each class in a paint of its own
corpus.py    what the base is pretrained on, from the demo's base on
pretrain.py  makes the base of it, `demo/detect/base`
dataset.py   pictures and label files in DOTA's layout for SFT, GRPO and evaluation
road.py      the whole road: SFT, GRPO with the reward `detect`, evaluation
"""
