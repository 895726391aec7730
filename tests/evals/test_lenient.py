"""The lenient reading, answer by answer: what is read, and what must not be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.predictions import Prediction
from evals.scoring import lenient
from evals.scoring.metrics import evaluate
from evals.scoring.reading import Reading
from evals.scoring.scores import Answers, Classes, class_key
from tests.support.scores.scored import ask, said
from vlm import answers

OPTIONS = ["harbor", "airport", "dense residential", "stadium"]
WHOLE = Reading("qwen2_vl", "text")


@pytest.mark.parametrize(
    "text",
    [
        "B", "b", "(B)", "B.", "B. airport", "airport",  # as strictly
        "Option B", "option b", "Option (B)", "Option B.", "**B**", "__B__", "`B`", "$B$", r"\(B\)", "**B. airport**",
        "The answer is B", "The answer is B.", "The correct answer is: B", "The best answer is **B**.", "answer: b",
        "Answer: B", "Answer:B", "**Answer:** B", "**Answer: B**", "Final answer: (B)", "My answer is airport.",
        "The correct option is B. airport", "The answer is option B", "So the answer is B.", "答案：B",
        "答案是B", "答案: B",
        "正确答案是B", "选B", "选项B", "（B）",
        r"\boxed{B}", r"The answer is $\boxed{B}$.", r"\boxed{\text{B}}", r"First I look. \boxed{B}",
        "B, because planes stand on the apron.", "B. It shows planes.", "B: planes on an apron", "B) planes",
        "B because planes stand there", "Option B is correct", "The answer is B, since planes stand there.",
        "Planes stand on the apron. The answer is B.", "I see planes.\n\nAnswer: B", "The answer is B.\nAnswer: B",
        "B. A runway crosses it.", "The answer is B. A plane lands.", "B\nThe picture shows planes.",
    ],
)  # fmt: skip
def test_read_as_b(text):
    assert lenient.option(text, OPTIONS) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "B and C", "B or C", "A or B", "A, B", "B, C", "B/C", "A B C D", "not B", "Not B.",
        "The answer is not B",
        "The answer is not B.", "The answer is B or C", "Answer: A or B", "Answer: B and C", "Answer: A, B",
        "Option B or option C", "Options A and B", "Option B is not correct", "B is wrong", "B is not it",
        "**A** or **B**",
        r"\boxed{A} \boxed{B}", r"\boxed{A, B}", "The answer is A. The answer is B.", "Answer: A\nAnswer: B",
        "B. No, C.", "B, no, rather C", "B. harbor", "B. The harbor holds ships.", "The answer is B. harbor",
        "A. harbor B. airport C. dense residential D. stadium", "Either B or D", "neither B nor C", "E", "Option E",
        "The answer is E", "Building", "Bridge", "Be careful.", "Sector B is the largest", "Vitamin B",
        "I would take B",
        "B is a letter", "Answering B", "no answer", "The answer is unclear", "The answer is harbor or airport",
        "It could be B, C or D", "A bridge", "The answer is a bridge", "Choice of words", "B. Not sure.",
    ],
)  # fmt: skip
def test_not_read_as_b(text):
    assert lenient.option(text, OPTIONS) != 1
    assert answers.option(text, OPTIONS) != 1


def test_an_article_is_no_option():
    assert lenient.option("The answer is a stadium", OPTIONS) is None
    assert lenient.option("A bridge", OPTIONS) is None and lenient.option("A", OPTIONS) == 0
    assert lenient.option("The answer is A", OPTIONS) == 0


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("1,200", "1200"), ("1200", "1,200"), ("1,200.", "1200"), ("35 m²", "35"), ("35 m2", "35 m²"), ("$35$", "35"),
        ("**35**", "35"), (r"\boxed{35}", "35"), ("The answer is 35.", "35"), ("Answer: 35 m²", "35m2"),
        ("twelve", "12"),
        ("3.0", "3"), ("-2", "-2.0"), ("yes, there is", "yes"), ("Yes, there is a ship.", "yes"), ("Yes.", "yes"),
        ("No, there are none", "no"), ("No ships are visible.", "no"), ("The answer is yes, there is.", "yes"),
        ("答案：yes", "yes"), ("**Urban**", "urban"), ("Answer: urban", "urban"), ("The answer is urban.", "Urban"),
        ("3 ships", "3"), ("The answer is 5. I counted twice.", "5"), ("rural", "rural"),
    ],
)  # fmt: skip
def test_equal(text, truth):
    assert lenient.equal(text, truth)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("", "yes"), ("", ""), ("x", ""), ("yes and no", "yes"), ("yes, no", "yes"), ("yes or no", "no"),
        ("no, yes", "yes"),
        ("not yes", "yes"), ("The answer is not yes", "yes"), ("there is, yes", "yes"), ("yesterday", "yes"),
        ("north", "no"),
        ("no", "yes"), ("No, there is not", "yes"), ("1,20", "120"), ("3 or 4", "3"), ("3, 4", "3"),
        ("between 3 and 4", "3"),
        ("3²", "9"), ("35 km²", "35 m²"), ("35 planes", "35 ships"), ("350", "35"), ("3.5", "35"),
        (r"\boxed{3} \boxed{4}", "3"), ("The answer is 3. The answer is 4.", "4"), ("rural or urban", "urban"),
        ("not urban", "urban"), ("The answer is not urban", "urban"), ("suburban", "urban"), ("about 35 or so", "35"),
        ("no", "0"), ("Answer: 3 or 4", "4"),
    ],
)  # fmt: skip
def test_not_equal(text, truth):
    assert not lenient.equal(text, truth)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Dense-Residential", True), ("**dense residential**", True), ("The answer is dense_residential.", True),
        ("Answer: DenseResidential", True), (r"\boxed{dense residential}", True), ("residential", False),
        ("dense residential, harbor", False), ("not dense residential", False), ("", False),
    ],
)  # fmt: skip
def test_classes(text, right):
    assert lenient.same_class(text, "dense residential", class_key) is right


@given(st.text(max_size=60), st.sampled_from(["yes", "12", "B", "urban", ""]))
def test_it_never_raises_and_reads_all_that_is_read_strictly(text, truth):
    lenient.option(text, OPTIONS)
    strict = answers.normalise(text) == answers.normalise(truth) != ""
    assert lenient.equal(text, truth) or not strict
    if (index := answers.option(text, OPTIONS)) is not None:
        assert lenient.option(text, OPTIONS) == index


def test_lenient_numbers_stand_beside_the_strict_ones():
    asked = [
        ask("1", said("2"), "2", "count"),
        ask("2", said("**1,200**"), "1200", "count"),
        ask("3", said("yes, there is"), "yes", "presence"),
        ask("4", said("no"), "yes", "presence"),
        ask("5", "The answer is yes", "yes", "presence"),  # no tags: there is no answer to be read
        ask("6", said("Option B"), "airport", task="choice", choices=OPTIONS),
        ask("7", said("B and C"), "airport", task="choice", choices=OPTIONS),
    ]
    values = {name: metric.value for name, metric in evaluate(asked, "qwen2_vl").metrics.items()}
    assert (values["vqa/exact"], values["vqa/exact:lenient"]) == (1 / 5, 3 / 5)
    assert (values["vqa/exact[count]"], values["vqa/exact:lenient[count]"]) == (1 / 2, 1)
    assert values["vqa/mean_of_kinds"] == pytest.approx((1 / 2 + 0) / 2)
    assert values["vqa/mean_of_kinds:lenient"] == pytest.approx((1 + 1 / 3) / 2)
    assert (values["choice/accuracy"], values["choice/accuracy:lenient"]) == (0, 1 / 2)
    text = evaluate(asked, "qwen2_vl").metrics["vqa/exact:lenient"].convention
    assert "lenient" in text and "announced" in text and "over all questions" in text


def test_in_benchmarks():
    left = Answers(left_out=("count",))
    asked = [
        ask("1", "Answer: yes", "yes", "presence"),
        ask("2", "no", "yes", "comp"),
        ask("3", "3", "4", "count"),
    ]
    values = {name: metric.value for name, metric in left(asked, WHOLE).metrics.items()}
    assert values["vqa/mean_of_kinds:no_count"] == 0 and values["vqa/mean_of_kinds:no_count:lenient"] == 1 / 2
    scenes = [
        Prediction("1", "s", "classification", "**Airport**", answer="airport"),
        Prediction("2", "s", "classification", "airport", answer="airport"),
        Prediction("3", "s", "classification", "river", answer="harbor"),
    ]
    values = {name: metric.value for name, metric in Classes()(scenes, WHOLE).metrics.items()}
    assert values["classification/accuracy"] == 1 / 3 and values["classification/accuracy:lenient"] == 2 / 3
    assert (
        values["classification/mean_of_classes"] == 1 / 4 and values["classification/mean_of_classes:lenient"] == 1 / 2
    )
