"""A scorer whose scores are known, rows as TRL hands them to a reward, and its log."""

from __future__ import annotations

from collections import defaultdict

from PIL import Image

from vlm.pictures import images as pictures


class FakeScorer:
    """Scores an exchange by `table[answer]` and keeps every batch; an entry that is an exception is raised."""

    def __init__(self, table, picture_bonus=None):
        self.table, self.bonus = dict(table), picture_bonus or {}
        self.batches = []

    def score(self, exchanges):
        self.batches.append([exchange.messages[-1]["content"] for exchange in exchanges])
        return [self._one(exchange) for exchange in exchanges]

    def _one(self, exchange):
        answer = exchange.messages[-1]["content"]
        value = self.table[answer]
        if isinstance(value, BaseException):
            raise value
        colours = [opened(image).getpixel((0, 0)) for image in exchange.images]
        return value + sum(self.bonus.get((answer, colour), 0.0) for colour in colours)

    @property
    def asked(self):
        return [answer for batch in self.batches for answer in batch]


def opened(image):
    return image if isinstance(image, Image.Image) else pictures.load(image)


def bare(text):
    return [{"role": "assistant", "content": text}]


def picture(colour):
    return Image.new("RGB", (8, 8), colour)


RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def batch(*groups):
    """Columns of TRL for groups of (colour, question, reference, completions), with prompts as TRL prepares them."""
    rows = defaultdict(list)
    for number, (colour, question, reference, completions) in enumerate(groups):
        image = picture(colour)
        user = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        prompt = [
            {"role": "system", "content": [{"type": "text", "text": "Think."}]},
            {"role": "user", "content": user},
        ]
        for completion in completions:
            rows["prompts"].append(prompt)
            rows["completions"].append(completion)
            rows["images"].append([image])
            rows["task"].append("open_ended")
            rows["answer"].append(reference)
            rows["source"].append("scenes")
            rows["id"].append(str(number))
    return dict(rows)
