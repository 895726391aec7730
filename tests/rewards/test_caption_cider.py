"""CIDEr-D equals pycocoevalcap's given the same document frequency, BLEU-4 its closed form; counted files come back."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test

from evals.scoring.captions import TOKENISERS
from rewards.rules.bleu import bleu
from rewards.rules.cider import Frequencies, cider_d, consensus, counted, weighted
from rewards.rules.frequencies import load, of_samples, write
from samples import Sample
from vlm.answers import words
from vlm.common.errors import DataError

WORDS = ["a", "the", "road", "house", "is", "built", "north", "many", "trees", "nothing"]
CAPTION = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14)
CORPUS = st.lists(st.lists(CAPTION, min_size=1, max_size=5), min_size=2, max_size=8)


def scored(said, references, frequencies):
    return cider_d(weighted(said, frequencies), [weighted(one, frequencies) for one in references])


@settings(max_examples=150, deadline=None)
@given(CORPUS, st.data())
def test_equals_pycocoevalcap_on_its_own_corpus(corpus, data):
    said = [data.draw(CAPTION) for _ in corpus]
    true = {place: [" ".join(one) for one in captions] for place, captions in enumerate(corpus)}
    _, expected = Cider().compute_score(true, {place: [" ".join(one)] for place, one in enumerate(said)})
    found = [scored(one, captions, counted(corpus)) for one, captions in zip(said, corpus, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(CORPUS, CAPTION, st.lists(CAPTION, min_size=1, max_size=5))
def test_equals_pycocoevalcap_with_frequencies_of_another_corpus(corpus, said, references):
    """The library's scorer is handed the frequencies, and as many documents, of which it scores the first."""
    fixed = counted(corpus)
    scorer = CiderScorer()
    scorer.document_frequency.update({tuple(ngram.split()): float(count) for ngram, count in fixed.counts.items()})
    scorer.ctest = [cook_test(" ".join(said))]
    scorer.crefs = [cook_refs([" ".join(one) for one in references])] + [[]] * (fixed.documents - 1)
    assert scored(said, references, fixed) == pytest.approx(scorer.compute_cider()[0], abs=1e-9)


def test_by_hand():
    """Two documents of one word each; their rarity is log 2, the words of both weigh nothing."""
    known = counted([[["road", "house"]], [["tree", "house"]]])
    assert known.documents == 2 and known.counts["house"] == 2 and known.rarity("house") == 0
    assert known.rarity("road") == known.rarity("never seen") == pytest.approx(math.log(2))
    assert scored(["road"], [["road"]], known) == pytest.approx(10 / 4)  # one word has unigrams alone
    assert scored(["road", "house"], [["road", "house"]], known) == pytest.approx(10 / 2)
    # unigrams alike, bigrams not: cos 1 and 0; a bigram less or more costs exp(−1 / 72)
    assert scored(["house", "road"], [["road", "house"]], known) == pytest.approx(10 / 4)
    assert scored(["road"], [["road", "house"]], known) == pytest.approx(10 / 4 * math.exp(-1 / 72))
    assert scored(["house"], [["road"]], known) == 0


def test_consensus_is_one_caption_against_the_others_and_counts_a_text_once():
    corpus = [[["a", "road"], ["a", "house"]], [["a", "tree"], ["a", "road"], ["a", "road"]], [["a", "ship"]]]
    known = counted(corpus)
    first = scored(["a", "road"], [["a", "house"]], known), scored(["a", "house"], [["a", "road"]], known)
    second = scored(["a", "tree"], [["a", "road"]], known), scored(["a", "road"], [["a", "tree"]], known)
    assert consensus(corpus, known) == pytest.approx(((first[0] + second[1]) / 2 + first[1] + second[0]) / 3)
    assert consensus([[["a", "ship"]], [["b"]]], known) is None


def test_stock_sentences_do_not_make_the_consensus():
    """Half of the documents say the same five: the mean over captions would move to what these score."""
    changes = [[[*w, "is", "built", str(n)], [*w, "appears", str(n)]] for n, w in enumerate([["road"], ["house"]] * 20)]
    stock = [[["the", "same"], ["no", "change"], ["nothing", "new"]]] * 40
    without, known = consensus(changes, counted(changes + stock)), counted(changes + stock)
    assert consensus(changes + stock, known) == pytest.approx(without * 80 / 83, rel=1e-6)


def slow_bleu(said, references):
    product = 1.0
    for n in (1, 2, 3, 4):
        ours = Counter(tuple(said[i : i + n]) for i in range(len(said) - n + 1))
        theirs = [Counter(tuple(one[i : i + n]) for i in range(len(one) - n + 1)) for one in references]
        right = sum(min(number, max(one[gram] for one in theirs)) for gram, number in ours.items())
        product *= (right + (n > 1)) / (sum(ours.values()) + (n > 1))
    nearest = sorted((abs(len(one) - len(said)), len(one)) for one in references)[0][1]
    return product**0.25 * min(1.0, math.exp(1 - nearest / len(said)))


def test_bleu_by_hand():
    four = ["a", "b", "c", "d"]
    assert bleu(four, [four]) == 1 and bleu(["a"], [["a"]]) == 1 and bleu([], [four]) == 0
    assert bleu(["x", "y"], [four]) == 0  # no right word
    assert bleu(["a", "b", "c", "x"], [four]) == pytest.approx((3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu(["a", "b"], [four]) == pytest.approx(math.exp(1 - 4 / 2))  # all that is said is right, half is said
    assert bleu(["a", "a", "a"], [["a", "b", "c"]]) == pytest.approx((1 / 3 * 1 / 3 * 1 / 2 * 1) ** 0.25)  # clipped
    # of two lengths that are as near, the shorter: no brevity
    assert bleu(["a", "b", "c"], [four, ["a", "b"]]) == pytest.approx(1)


@settings(max_examples=200, deadline=None)
@given(CAPTION, st.lists(CAPTION, min_size=1, max_size=4))
def test_bleu_is_its_formula(said, references):
    assert 0 <= bleu(said, references) <= 1
    assert bleu(said, references) == pytest.approx(slow_bleu(said, references), abs=1e-12)
    assert bleu(references[0], references) == pytest.approx(1)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_words_are_those_of_the_evaluation(text):
    assert " ".join(words(text)) == TOKENISERS["words"]([text])[0]
    assert words(" ".join(words(text))) == words(text)


def test_what_is_written_without_blanks_has_words_too():
    """And an accent is one letter, however it is encoded."""
    assert words("修建了一条道路 2") == [*"修建了一条道路", "2"]
    assert words("Cafe\u0301, l'été") == ["café", "l'été"]


def sample(images, *texts, task="caption"):
    return Sample(list(images), [], task, answer=texts[0], references=list(texts) if len(texts) > 1 else None)


def test_a_document_is_a_picture(tmp_path):
    """However its captions are spread over rows, and whatever other tasks its rows have."""
    spread = [sample("ab", "A road."), sample("ab", "One road!"), sample("cd", "Trees"), sample("cd", "x", task="vqa")]
    found = of_samples(spread, "here")
    assert found.documents == 2 and found.counts == {
        "a": 1,
        "road": 1,
        "a road": 1,
        "one": 1,
        "one road": 1,
        "trees": 1,
    }
    assert found == of_samples([sample("ab", "one ROAD", "a road"), sample("cd", "trees")], "here")
    write(tmp_path / "f.json", found)
    assert load(tmp_path / "f.json") == found
    with pytest.raises(DataError, match="found 1 pictures with captions.*expected two"):
        of_samples(spread[:2], "here")


def test_texts_without_pictures_are_documents_of_their_own():
    assert of_samples([sample("", "a"), sample("", "a"), sample("", "!")], "here").documents == 2


GOOD = {"documents": 3, "counts": {"a road": 2}, "consensus": None}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1", "cannot be read as JSON"),
        ([1], "found list, expected {"),
        ({"documents": 3}, r"found \['documents'\], expected {"),
        (GOOD | {"other": 1}, "expected {"),
        (GOOD | {"documents": 1}, "documents: found 1"),
        (GOOD | {"documents": True}, "documents: found True"),
        (GOOD | {"counts": {}}, "counts: found {}"),
        (GOOD | {"counts": {"A road": 1}}, "found the n-gram 'A road'"),
        (GOOD | {"counts": {"a b c d e": 1}}, "expected 1 to 4 words"),
        (GOOD | {"counts": {"a": 4}}, "'a': found 4, expected 1 to 3"),
        (GOOD | {"counts": {"a": 1.0}}, "'a': found 1.0"),
        (GOOD | {"consensus": 11}, "consensus: found 11"),
    ],
)
def test_files_that_cannot_be_right_are_refused(tmp_path, content, said):
    file = tmp_path / "f.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=said) as caught:
        load(file)
    assert str(file) in str(caught.value)
    file.write_text(json.dumps(GOOD))
    assert load(file) == Frequencies(3, {"a road": 2})
