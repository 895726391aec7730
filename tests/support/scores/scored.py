"""Predictions whose scores are known by hand."""

from evals.predictions import Prediction


def said(answer, trace="because"):
    return f"<think>{trace}</think><answer>{answer}</answer>"


def ground(id, completion, truth=((0, 0, 100, 100),), size=(1000, 1000)):
    return Prediction(id, "g", "grounding", completion, boxes=[list(box) for box in truth], size=size)


def ask(id, completion, answer, kind=None, task="vqa", choices=None):
    return Prediction(id, task, task, completion, kind=kind, answer=answer, choices=choices)


# The image is 1000 x 1000, so per mille are pixels; the truth is 0,0,100,100 (area 10,000).
GROUNDING = [
    ground("same", said("(0,0),(100,100)")),  # IoU 1
    ground("half", said("(0,0),(50,100)")),  # 5,000 / 10,000 = 0.5: a hit at >= 0.5 (a miss with the "+1" rule's >)
    ground("four fifths", said("(0,0),(100,80)")),  # 0.8
    ground("third", said("(50,0),(150,100)")),  # 5,000 / 15,000
    ground("unparsable", said("the dam")),
    ground("inverted", said("(100,100),(0,0)")),
    ground("two boxes", said("(0,0),(100,100),(0,0),(50,50)")),
    ground("no tags", "(0,0),(100,100)"),
    ground("two answers", said("(0,0),(100,100)") + "<answer>(0,0),(1,1)</answer>"),
    ground("empty", ""),
]
