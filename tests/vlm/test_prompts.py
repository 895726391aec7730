"""Prompts by style and task: the wording worked out by hand."""

import pytest

from samples import TASKS, Sample
from vlm import prompts
from vlm.common.errors import RecipeError
from vlm.sections import PromptSection


def sample(task="vqa", question="How many ships?", *turns, **fields):
    messages = [{"role": "user", "content": question}, *turns]
    return Sample(["a.png"], messages, task, **fields)


def said(role, content):
    return {"role": role, "content": content}


def test_the_wording_of_every_task():
    expected = {
        "grounding": "Give the bounding box of the object that this sentence describes: a dam",
        "vqa": "a dam\nAnswer with a single word or number.",
        "choice": "a dam\nA. pier B. lock\nAnswer with the letter of the right option.",
        "open_ended": "a dam",
        "caption": "a dam",
        "classification": "a dam\nAnswer with one of the class names.",
        "detection": "a dam",  # worded by its notation
        "segmentation": "a dam",  # worded by its mask form
    }
    assert set(expected) == set(TASKS)
    for task, text in expected.items():
        assert prompts.user_text(sample(task, choices=["pier", "lock"]), "a dam") == text


def test_a_recipe_overrides_the_wording_of_one_task_only():
    wording = {"grounding": "Where is {question}?", "choice": "{options} | {question}"}
    choice = sample("choice", choices=["pier", "lock", "quay"])
    assert prompts.user_text(sample("grounding"), "the dam", wording) == "Where is the dam?"
    assert prompts.user_text(choice, "Which?", wording) == "A. pier B. lock C. quay | Which?"
    assert prompts.user_text(sample("vqa"), "Why?", wording) == "Why?\nAnswer with a single word or number."


PHRASE = "Answer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("question", "wording", "expected"),
    [
        ("Rural?", f"{{question}}\n{PHRASE}", f"Rural?\n{PHRASE}"),
        (f"Rural?\n{PHRASE}", f"{{question}}\n{PHRASE}", f"Rural?\n{PHRASE}"),  # LRS-VQA, lrben and hrben
        (f"Rural? {PHRASE}", f"{{question}}\n{PHRASE}", f"Rural? {PHRASE}"),
        (f"Rural?\n{PHRASE[:-1].upper()}", f"{{question}}\n{PHRASE}", f"Rural?\n{PHRASE[:-1].upper()}"),
        (f"Rural?\n{PHRASE}", f"Q: {{question}} {PHRASE}", f"Q: Rural?\n{PHRASE}"),
        # a wording that the recipe states stands, unless it says the very same
        (f"Rural?\n{PHRASE}", "{question}\nAnswer in one word, in German.",
         f"Rural?\n{PHRASE}\nAnswer in one word, in German."),
        # the default gives way to whatever the data says
        (f"Rural?\n{PHRASE}", None, f"Rural?\n{PHRASE}"),
        ("Rural? Answer the question using a single word.", None, "Rural? Answer the question using a single word."),
        ("What is it?\nRespond with only the letter of the option.", None,
         "What is it?\nRespond with only the letter of the option."),
        # questions that only look like it
        ("Does the answer with the number hold?", None,
         "Does the answer with the number hold?\nAnswer with a single word or number."),
        ("Answer with a word: how many?", None, "Answer with a word: how many?\nAnswer with a single word or number."),
        ("The answer", None, "The answer\nAnswer with a single word or number."),
        ("", None, "\nAnswer with a single word or number."),
    ],
)  # fmt: skip
def test_no_question_is_told_twice_how_to_be_answered(question, wording, expected):
    assert prompts.user_text(sample(), question, {"vqa": wording} if wording else None) == expected


def test_siblings_of_other_tasks():
    """GeoChat-Bench's scenes, and choices whose question says it already."""
    scenes = (
        "Classify the image within one of the given classes: Airport, Beach.\nAnswer with one word or short phrase."
    )
    assert prompts.user_text(sample("classification"), scenes) == scenes
    choice, told = sample("choice", choices=["a", "b"]), "Which? Answer with the letter of the right option."
    assert prompts.user_text(choice, told) == f"{told}\nA. a B. b"
    # what stands before the question or holds the options is never left out
    wording = {"choice": "Answer with the letter of the right option. {question} {options}"}
    assert prompts.user_text(choice, told, wording) == f"Answer with the letter of the right option. {told} A. a B. b"


def test_braces_in_the_data_are_text():
    """Only the template is a template: a question that looks like one stays as it is."""
    assert prompts.user_text(sample("open_ended"), "what is {options} {0} {{x}}?") == "what is {options} {0} {{x}}?"
    assert prompts.user_text(
        sample("choice", choices=["{question}", "b"]), "q", {"choice": "{question} {options}"}
    ) == ("q A. {question} B. b")
    assert prompts.user_text(sample("vqa"), "q", {"vqa": "{{json}} {question}"}) == "{json} q"


def test_options_are_lettered_in_order():
    assert prompts.options_text(["harbor", "airport"]) == "A. harbor B. airport"
    assert prompts.options_text(["x"] * 26).endswith("Z. x")
    assert prompts.options_text([]) == ""


@pytest.mark.parametrize(
    ("style", "override", "system"),
    [("r1", None, prompts.R1_SYSTEM), ("direct", None, None), ("r1", "Think.", "Think."), ("direct", "Be.", "Be.")],
)
def test_styles(style, override, system):
    turns = prompts.prompt(sample(), style, override)
    question = said("user", "How many ships?\nAnswer with a single word or number.")
    assert turns == ([said("system", system), question] if system else [question])


def test_the_r1_system_prompt_names_the_four_tags_once_in_its_pattern():
    pattern = "<think> reasoning </think><answer> answer </answer>"
    assert prompts.R1_SYSTEM.endswith(pattern)
    assert all(
        tag in prompts.R1_SYSTEM.removesuffix(pattern) for tag in ("<think>", "</think>", "<answer>", "</answer>")
    )


def test_the_reference_is_never_part_of_the_prompt():
    one = sample("open_ended", "What?", said("assistant", "the secret"))
    assert "secret" not in str(prompts.prompt(one))
    assert one.messages[-1]["content"] == "the secret"  # and the sample is left as it was


def test_later_turns_stand_as_they_are():
    one = sample("vqa", "First?", said("assistant", "yes"), said("user", "Second?"), said("assistant", "no"))
    assert prompts.prompt(one, "direct", None, {"vqa": "Q: {question}"}) == [
        said("user", "Q: First?"),
        said("assistant", "yes"),
        said("user", "Second?"),
    ]


def test_the_datas_own_system_turn_wins():
    own = Sample(["a.png"], [said("system", "You are a pilot."), said("user", "Where?")], "open_ended")
    assert prompts.prompt(own, "r1") == [said("system", "You are a pilot."), said("user", "Where?")]


@pytest.mark.parametrize(
    ("wording", "message"),
    [
        ({"vqa": "{question"}, "unbalanced braces"),
        ({"vqa": "{question} }"}, "unbalanced braces"),
        ({"vqa": "Answer."}, "holds {question}"),
        ({"vqa": "{question} {image}"}, r"\['image', 'question'\]"),
        ({"vqa": "{question} {}"}, r"\['', 'question'\]"),
        ({"vqa": "{question.upper}"}, "question.upper"),
        ({"counting": "{question}"}, "no such task; tasks are grounding"),
    ],
)
def test_wordings_that_would_lose_the_question_are_refused(wording, message):
    with pytest.raises(RecipeError, match=message) as caught:
        prompts.check_wording(wording)
    assert f"wording.{next(iter(wording))}" in str(caught.value)


def test_good_wordings_pass():
    prompts.check_wording({"vqa": "{{literal}} {question}", "choice": "{question} {options}"})
    prompts.check_wording(prompts.WORDING)
    prompts.check_wording({})


def test_lines_are_told_of_where_a_row_has_a_system_turn_of_its_own():
    """The notation's system prompt cannot stand there; without a word of it nobody knows the form."""
    turns = [said("system", "You are kind."), said("user", "plane, ship")]
    row = Sample(["a.png"], turns, "detection", classes=["plane", "ship"], labels=[], boxes=[])
    system, user = prompts.asked(row, PromptSection(style="direct", notation="rscovlm"))
    assert system == turns[0]
    assert user["content"] == "find the plane, ship\nAnswer with one line for each object: x1,y1,x2,y2 name."
