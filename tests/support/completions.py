"""Completions as TRL hands them to rewards, and what rewards log through TRL."""

from __future__ import annotations

from collections import defaultdict

from vlm.boxes import write_boxes

SIZE = (100, 200)
BOX = [10, 20, 60, 120]  # (100,100),(600,600) per mille of SIZE
LEFT_HALF = [10, 20, 35, 120]  # IoU .5 with BOX


def r1(answer: str, trace: str = "t") -> list[dict[str, str]]:
    """One that keeps the format."""
    return [{"role": "assistant", "content": f"<think>{trace}</think>\n<answer>{answer}</answer>"}]


def grounded(*boxes) -> list[dict[str, str]]:
    """One that answers with boxes, in pixels of SIZE."""
    return r1(write_boxes(boxes, "qwen2_vl", SIZE))


class Logs:
    """TRL's log_metric and log_extra (GRPOTrainer._log_metric, _log_completion_extra), one process."""

    def __init__(self):
        self.metrics, self.extra = defaultdict(list), defaultdict(list)

    def log_metric(self, name, value):
        self.metrics[name].append(value)

    def log_extra(self, column, values):
        self.extra[column].extend(values)

    def mean(self, name):
        return sum(self.metrics[name]) / len(self.metrics[name])

    def means(self):
        return {name: self.mean(name) for name in self.metrics}
