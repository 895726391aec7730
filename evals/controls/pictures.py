"""Questions without their pictures, with those of another question, and with their own in reversed order.

Truth and prompt stay as they are. In `blind` the places of pictures (`<image>`) leave the texts, and nothing takes
their place. In `swapped` the places stay where they are, with what the text calls them ("Picture 1, 2019-04:") and with
`dates`: the pictures are exchanged under their names, so that what came in the first is said to be in the last. A model
that looks at both and in which order they come says the opposite of what is true; one that says the same as before
looks at one of them alone, or at none. Where boxes are read, as in grounding:

    per mille, percent, 0–1   a place within a picture is that place within the question's own picture
    square                    likewise, within the square that the question's own picture is padded to
    resized                   likewise: numbers are read in the frame of the picture that was shown (`resized` of the
                              row), and become the same part of the question's own; without a picture the frame is the
                              one that the question's own picture would have had
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evals.controls.registry import Asked, register
from samples import Sample
from samples.fingerprints import of_each_picture
from vlm.pictures.places import TAG
from vlm.pictures.resizing import header_size

TEXT_ALONE = "without a picture"
NO_OTHER = "no other question with as many pictures, all of them others"
ONE = "with one picture or none"
SAME = "whose pictures are the same in reversed order"


def unpictured(sample: Sample) -> Sample:
    """The question without its pictures, and without their places in the texts. `size` stays."""
    turns = [
        {**turn, "content": turn["content"].replace(TAG, "")} if turn["role"] == "user" else turn
        for turn in sample.messages
    ]
    return replace(sample, images=[], messages=turns)


@register("blind", "the same questions without their pictures")
def blind(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    """All questions that have a picture."""
    shown = [sample for sample in samples if sample.images]
    if not shown:
        return "no question has a picture"
    return Asked([unpictured(sample) for sample in shown], recipe, _counted({TEXT_ALONE: len(samples) - len(shown)}))


@register("shuffled", "the same questions, each with the pictures of another question")
def shuffled(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    """All questions that have a picture, and for which there is another one."""
    shown = [sample for sample in samples if sample.images]
    if not shown:
        return "no question has a picture"
    given = exchanged(shown, recipe.seed)
    found = [
        replace(one, images=other.images, size=other.size) for one, other in zip(shown, given, strict=True) if other
    ]
    if not found:
        return "there is no other picture to show: no two questions have as many pictures, all of them different"
    missed = {TEXT_ALONE: len(samples) - len(shown), NO_OTHER: len(shown) - len(found)}
    return Asked(found, recipe, _counted(missed))


@register("swapped", "the same questions, each with its own pictures in reversed order, under the same names and dates")
def swapped(samples: Sequence[Sample], recipe: Any) -> Asked | str:
    """All questions with several pictures, but those in which nothing would change."""
    several = [sample for sample in samples if len(sample.images) > 1]
    if not several:
        return "no question has several pictures"
    contents = of_each_picture(image for sample in several for image in sample.images)
    found = []
    for sample in several:
        held = [contents[image] for image in sample.images]
        if held != held[::-1]:
            size = None if sample.size is None else header_size(sample.images[-1])
            found.append(replace(sample, images=sample.images[::-1], size=size))
    if not found:
        return "no question has several pictures that differ in reversed order"
    return Asked(found, recipe, _counted({ONE: len(samples) - len(several), SAME: len(several) - len(found)}))


def exchanged(samples: Sequence[Sample], seed: int) -> list[Sample | None]:
    """For each sample one whose pictures it is shown: as many, none of them one of its own; None where there is none.

    Pictures are told apart by the contents of their files, however these are called. All samples with the same
    pictures are shown the same others. The different pictures (lists of pictures) stand in a ring, ordered by hashes of
    seed and content, and each is given the next one in which nothing is its own. So, with one picture a question, no
    two pictures are given the same one, and each is shown instead of some other: a derangement. It depends on the
    pictures and the seed alone.
    """
    contents = of_each_picture(image for sample in samples for image in sample.images)
    held = [tuple(contents[image] for image in sample.images) for sample in samples]
    first: dict[tuple[str, ...], Sample] = {}
    for key, sample in zip(held, samples, strict=True):
        first.setdefault(key, sample)
    rings: dict[int, list[tuple[str, ...]]] = {}
    for key in sorted(first, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest()):
        rings.setdefault(len(key), []).append(key)
    other: dict[tuple[str, ...], Sample | None] = {}
    for ring in rings.values():
        for place, key in enumerate(ring):
            following = (ring[(place + step) % len(ring)] for step in range(1, len(ring)))
            taken = next((one for one in following if not {*one} & {*key}), None)
            other[key] = None if taken is None else first[taken]
    return [other[key] for key in held]


def _counted(why: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in why.items() if count}
