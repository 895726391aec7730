"""Captions that are not about their pair: none may earn half of what one human caption earns against the others.

The corpus is made as LEVIR-CC is: five captions a pair, half of the pairs did not change, and all of those are
described by a few stock sentences, which are true there. `python -m tests.rewards.test_caption_hacks` prints means
(LOG.md).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from statistics import mean

import pytest

from rewards.rules.captions import Caption
from rewards.rules.cider import consensus, counted
from rewards.rules.frequencies import write
from vlm.answers import words

STOCK = [
    "the scene is the same as before",
    "there is no difference",
    "the two scenes seem identical",
    "no change has occurred",
    "almost nothing has changed",
]
THINGS = {
    "house": ["{n} house{s}", "{n} building{s}", "{n} residential building{s}", "{n} villa{s}"],
    "road": ["{n} road{s}", "{n} street{s}", "{n} path{s}"],
    "parking lot": ["{n} parking lot{s}", "{n} car park{s}"],
    "tree": ["{n} tree{s}", "{n} plant{s}"],
    "lake": ["{n} lake{s}", "{n} pond{s}"],
    "factory": ["{n} factory building{s}", "{n} large warehouse{s}"],
}
ACTS = {"built": ["{be} built", "appear", "{have} been constructed", "show up"], "gone": ["{be} removed", "disappear"]}
PLACES = {
    "": [""],
    "bareland": [" on the bareland", " on the empty ground"],
    "wood": [" in the woods", " in the forest"],
    "road": [" along the road", " near the street"],
    "corner": [" in the corner", " at the corner of the scene"],
    "desert": [" in the desert", " on the sand"],
}
NUMBERS = {"one": ["a", "one"], "some": ["some", "several"], "many": ["many", "a lot of"]}


class Pair:
    """What changed between two pictures: one or two facts; or nothing."""

    def __init__(self, draw: random.Random, changed: bool, stock: list[str]):
        self.changed = changed
        kinds = (THINGS, ACTS, PLACES, NUMBERS)
        self.facts = [[draw.choice(sorted(kind)) for kind in kinds] for _ in range(draw.choice([1, 1, 2]))]
        self.references = [self.told(draw) for _ in range(5)] if changed else draw.choices(stock, k=5)

    def told(self, draw: random.Random) -> str:
        """As one person writes it: in words of theirs, perhaps without the place, perhaps one fact of two."""
        told = []
        for thing, act, place, number in self.facts:
            plural = number != "one"
            what = draw.choice(THINGS[thing]).format(n=draw.choice(NUMBERS[number]), s="s" if plural else "")
            done = draw.choice(ACTS[act]).format(be="are" if plural else "is", have="have" if plural else "has")
            where = draw.choice(PLACES[place]) if draw.random() < 0.8 else ""
            told.append(f"{what} {done}{where}")
        return " and ".join(told if draw.random() < 0.8 else told[:1])


class Corpus:
    def __init__(self, seed: int, pairs: int = 400, alike: bool = False):
        """alike: the references of a pair that did not change are one sentence, five times."""
        draw = random.Random(seed)
        self.pairs = [Pair(draw, bool(n % 2), STOCK[:1] if alike else STOCK) for n in range(pairs)]
        self.changed = [pair for pair in self.pairs if pair.changed]
        everything = Counter(text for pair in self.pairs for text in pair.references)
        self.commonest = everything.most_common(1)[0][0]
        self.of_changes = [
            text for text, _ in Counter(text for pair in self.changed for text in pair.references).most_common(6)
        ]
        tokens = Counter(word for pair in self.pairs for text in pair.references for word in words(text))
        self.bag = [word for word, _ in tokens.most_common(12)]


# What is said of a pair: `honest` is its first caption, which the others do not know.

Play = Callable[[Corpus, str], str]
PLAYED: dict[str, Play] = {
    "the commonest caption": lambda corpus, honest: corpus.commonest,
    "the commonest change": lambda corpus, honest: corpus.of_changes[0],
    "the six commonest changes": lambda corpus, honest: " and ".join(corpus.of_changes),
    "the commonest words": lambda corpus, honest: " ".join(corpus.bag),
    "all stock sentences": lambda corpus, honest: ", ".join(STOCK),
    "its own caption three times": lambda corpus, honest: ". ".join([honest] * 3),
    "its own and three stock sentences": lambda corpus, honest: ". ".join([honest, *STOCK[:3]]),
    "its own and three other changes": lambda corpus, honest: " and ".join([honest, *corpus.of_changes[:3]]),
    "its own words, each three times": lambda corpus, honest: " ".join(w for w in words(honest) for _ in range(3)),
    "its first word, ten times": lambda corpus, honest: " ".join(words(honest)[:1] * 10),
    "empty": lambda corpus, honest: "",
    "a thousand words": lambda corpus, honest: " ".join((words(honest) + corpus.bag) * 60),
}
ALSO: dict[str, Play] = {  # what knows the truth, and says it badly, earns less than saying it well
    "one human caption": lambda corpus, honest: honest,
    "its own caption twice": lambda corpus, honest: ". ".join([honest] * 2),
    "its own words backwards": lambda corpus, honest: " ".join(words(honest)[::-1]),
    "its own and one stock sentence": lambda corpus, honest: ". ".join([honest, STOCK[0]]),
}


@cache
def judge(folder, seed: int, alike: bool = False, **options: float) -> tuple[Corpus, Caption]:
    corpus = Corpus(seed, alike=alike)
    documents = [[words(text) for text in pair.references] for pair in corpus.pairs]
    found = counted(documents)
    file = folder / f"{seed}_{alike}.json"
    write(file, type(found)(found.documents, found.counts, consensus(documents, found)))
    return corpus, Caption(str(file), inside="text", **options)


def earned(corpus: Corpus, reward: Caption, pairs: list[Pair], *some: str) -> dict[str, list[float]]:
    """Strategy (some, or all) → its reward for each pair, against all captions but the first."""
    found = {}
    for name, play in (ALSO | PLAYED).items():
        if some and name not in some:
            continue
        said = [play(corpus, pair.references[0]) for pair in pairs]
        found[name] = reward(completions=said, references=[pair.references[1:] for pair in pairs])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frequencies")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("cider", [0.8, 1.0])
def test_of_a_change_nothing_that_is_played_earns_half_of_a_human_caption(folder, seed, cider):
    corpus, reward = judge(folder, seed, cider=cider)
    found = earned(corpus, reward, corpus.changed)
    human = mean(found["one human caption"])
    assert human > 0.4
    for play in PLAYED:
        assert mean(found[play]) < human / 2, play
    for play in ALSO.keys() - {"one human caption"}:
        assert mean(found[play]) < human, play


def test_the_commonest_caption_pays_where_it_is_true_alone(folder):
    """It is right of half of the pairs. GRPO compares captions of one pair: it is told so where it is wrong."""
    corpus, reward = judge(folder, 0)
    same = [pair for pair in corpus.pairs if not pair.changed]
    assert corpus.commonest in STOCK
    true, wrong = (
        earned(corpus, reward, pairs, "the commonest caption")["the commonest caption"]
        for pairs in (same, corpus.changed)
    )
    assert mean(true) > 0.5 and max(wrong) < 0.1


def test_pairs_without_change_are_bounded(folder):
    """Five times one sentence scores 10; without `full` these rows would be the mean."""
    corpus, reward = judge(folder, 0, alike=True)
    row = {"completions": [STOCK[0]], "references": [[STOCK[0]] * 5]}
    assert reward(**row) == [1.0]
    assert 0.3 < reward.full < 3  # all that is said of changes, and not the 10 of half of the pairs
    unbounded = Caption(str(folder / "0_True.json"), inside="text", cider=1.0, full=10.0)
    assert unbounded(**row) == [pytest.approx(1.0)]
    assert mean(earned(corpus, unbounded, corpus.changed, "one human caption")["one human caption"]) < 0.25


def _report() -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        for alike in (False, True):
            corpus, reward = judge(Path(folder), 0, alike)
            kinds = (corpus.changed, [pair for pair in corpus.pairs if not pair.changed])
            changed, same = (earned(corpus, reward, pairs) for pairs in kinds)
            told = "one stock sentence" if alike else "five stock sentences"
            print(f"\n{told}, full = {reward.full:.2f} | changed: mean | max | unchanged: mean | all |")
            for name in changed:
                a, b = mean(changed[name]), mean(same[name])
                print(f"| {name} | {a:.3f} | {max(changed[name]):.3f} | {b:.3f} | {(a + b) / 2:.3f} |")


if __name__ == "__main__":
    _report()
