"""The zoom demo: yards of 1,792 × 1,792 pixels with small things that only a crop at full resolution shows.

scene.py    yards: coloured pads, and on each a small truck with a mark on its roof
render.py   their pixels, whole or of a window alone
tasks.py    what is asked, with exact answers and the regions that hold the evidence
tiny.py     tokenizer, processor and model: those of `demo.tiny`, with the words of this world
corpus.py   what the base is pretrained on
pretrain.py makes the base of it, `demo/zoom/base`
dataset.py  questions for SFT, GRPO and evaluation as JSONL, with their pictures
road.py     the whole road: SFT, GRPO with the zoom, evaluation
"""
