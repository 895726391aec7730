"""Reading answers: what is mended, how it is counted, and that mending earns nothing over proper text."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.common.errors import DataError, RecipeError
from vlm.masks import FORMS, area, asking, check_form, pixels_of, read_mask, rings_to_runs, runs_of, write_mask

SIZE, RESIZED = (112, 224), (112, 224)  # 8 rows of 4 cells under rscovlm
ROWS = "0*4;0*4;0*1,1*2,0*1;1*4;0*4;0*4;0*4;0*4;"
GRID = np.zeros((8, 4), bool)
GRID[2, 1:3] = GRID[3] = True


def read(text, form="rscovlm", **more):
    return read_mask(text, form, SIZE, RESIZED, **more)


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        (f"<seg>{ROWS}</seg>", {}),
        (f" <seg>\n{ROWS.replace(';', '; ').replace(',', ', ').replace('*', ' * ')}</seg>\n", {}),
        (f"<seg>{ROWS.replace('0*4', '0*004')}</seg>", {}),
        (f"<seg>{ROWS[:-1]}</seg>", {"closed": 1}),
        (f"<seg>{ROWS}", {"cut": 1}),
        (f"<seg>{ROWS[:-1]}", {"cut": 1}),
        (f"<seg>{ROWS[:-2]}", {"cut": 1, "broken": 1}),
        (f"<seg>{ROWS[:-2]}2", {"cut": 1, "broken": 1}),
        (f"<seg>{ROWS[:-4]}", {"cut": 1, "rows": 1}),
        (ROWS, {"tags": 1}),
        (f"{ROWS}</seg>", {"tags": 1}),
        (f"Here it is: <seg>{ROWS}</seg>", {"prose": 1}),
        (f"Here it is: <seg>{ROWS}</seg> That's all.", {"prose": 2}),
        (f"<seg>{ROWS[:-8]}</seg>", {"rows": 2}),
        (f"<seg>{ROWS}1*4;1*4;</seg>", {"rows": 2}),
        (f"<seg>{ROWS.replace('0*1,1*2,0*1', '0*1,1*2')}</seg>", {"short": 1}),
        (f"<seg>{ROWS.replace('1*4', '1*9')}</seg>", {"long": 1}),
        (f"<seg>{ROWS.replace('1*4', '1*999999999')}</seg>", {"long": 1}),
        (f"<seg>{ROWS.replace('1*4', '1*' + '9' * 10_000)}</seg>", {"long": 1}),
        (f"<seg>{ROWS.replace('1*4', '1*4,0*1,1*7')}</seg>", {"long": 1}),
        (f"<seg>x;y;{ROWS[8:]}</seg>", {"broken": 2}),
        (f"<seg>;{ROWS[4:]}</seg>", {"broken": 1}),
        (f"<seg>0*4;2*4;{ROWS[8:]}</seg>", {"broken": 1}),
    ],
)
def test_what_is_mended_is_counted(text, repairs):
    said = read(text)
    assert said.readable and said.repairs == repairs
    assert np.array_equal(said.grid, GRID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<seg>",
        "<seg></seg>",
        "</seg>",
        "There is none.",
        f"Look: {ROWS}",
        f"{ROWS} That is it.</seg>",
        f"<seg>{ROWS}</seg><seg>{ROWS}</seg>",
        f"</seg>{ROWS}<seg>",
        "<seg>0*4;</seg>",  # seven rows of eight missing
        "<seg>0*4;",
        f"<seg>{ROWS[:-12]}",  # three of eight missing
        f"<seg>{ROWS}{ROWS}</seg>",
        f"<seg>a;b;c;{ROWS[24:]}</seg>",
        "<seg>" + ";" * 8 + "</seg>",
        "<seg>1*-4;" + ROWS[4:].replace("0*4", "0 4") + "</seg>",
        "٠*٤;" * 8,  # other scripts' digits
    ],
)
def test_what_is_no_mask_is_unreadable(text):
    said = read(text)
    assert not said.readable and said.grid is None and said.rings is None
    assert not said.pixels(SIZE).any() and said.overlap(runs_of(np.ones((224, 112), bool))) == (0, 112 * 224)


def test_of_an_empty_mask_a_shorter_text_says_no_less_only_within_a_quarter():
    """Rows that are missing are background, and so is the truth: what is left out may not be much."""
    empty, text = runs_of(np.zeros((224, 112), bool)), "<seg>" + "0*4;" * 8
    assert write_mask(empty, "rscovlm", RESIZED) == text + "</seg>"
    assert [read("<seg>" + "0*4;" * rows + "</seg>").readable for rows in range(10)] == [False] * 6 + [True] * 4


LABELLED = "<seg>" + "\n ".join(["others *16"] * 4 + ["others *3| the dam *10| others *3"] * 12) + "\n</seg>"
LABELS = np.zeros((16, 16), bool)
LABELS[4:, 3:13] = True


@pytest.mark.parametrize(
    ("text", "name", "repairs"),
    [
        (LABELLED, "the dam", {}),
        (LABELLED, " The  Dam", {}),
        (LABELLED, None, {}),
        (f"Sure, here is the segmentation mask for 'the dam':\n{LABELLED}", "the dam", {"prose": 1}),
        (LABELLED.replace("\n ", "\n").replace("| ", "|"), "the dam", {}),
        (LABELLED.replace("\n</seg>", "</seg>"), "the dam", {"closed": 1}),
        (LABELLED.replace("</seg>", ""), "the dam", {"cut": 1}),
        (LABELLED.replace("the dam *10| others *3\n</seg>", "the d"), "the dam", {"cut": 1, "broken": 1}),
        (LABELLED.replace("others *16\n", "others *16| ship *2\n"), "the dam", {"labels": 4, "long": 4}),
        (LABELLED.replace("others *3\n</seg>", "tree *3\n</seg>"), "the dam", {"labels": 1}),
    ],
)
def test_labels_are_read(text, name, repairs):
    said = read_mask(text, "text4seg", SIZE, name=name)
    assert said.readable and said.repairs == repairs
    expected = LABELS.copy()
    if repairs.get("broken"):
        expected[15] = False
    assert np.array_equal(said.grid, expected)


def test_a_label_that_was_not_asked_for_is_background_as_far_as_that_is_known():
    assert not read_mask(LABELLED, "text4seg", SIZE, name="the ship").grid.any()
    two = LABELLED.replace("others *16\n", "others *14| tree *2\n")
    said = read_mask(two, "text4seg", SIZE)
    assert said.repairs == {"labels": 4} and said.grid.sum() == LABELS.sum() + 4 * 2


@pytest.mark.parametrize("name", [None, "", " ", "others", "a|b", "a *2", "the <seg> tag"])
def test_what_cannot_be_a_label_is_refused(name):
    with pytest.raises(DataError, match="writes it as a label"):
        write_mask(runs_of(LABELS), "text4seg", name=name)


SQUARE = "[[100,100],[300,100],[300,300],[100,300]]"
OTHER = "[[500,500],[900,500],[900,900]]"


@pytest.mark.parametrize(
    ("text", "rings", "repairs"),
    [
        (f"[{SQUARE}]", [SQUARE], {}),
        (f"[{SQUARE},{OTHER}]", [SQUARE, OTHER], {}),
        (f"[\n {SQUARE.replace(',', ', ')},\n {OTHER}\n]\n", [SQUARE, OTHER], {}),
        ("[[[0100,100.0],[300,100],[300,300],[100,300]]]", [SQUARE], {}),
        ("[]", [], {}),
        (f"```json\n[{SQUARE}]\n```", [SQUARE], {"fence": 1}),
        (f"```\n[{SQUARE}]", [SQUARE], {"fence": 1}),
        (f"Here: ```json\n[{SQUARE}]```", [SQUARE], {"fence": 1, "prose": 1}),
        (SQUARE, [SQUARE], {"nesting": 1}),
        (f"[{SQUARE}", [SQUARE], {"cut": 1}),
        (f"[{SQUARE},", [SQUARE], {"cut": 1}),
        (f"[{SQUARE},{OTHER[:-10]}", [SQUARE], {"cut": 1}),
        (f"[{SQUARE},[[1,2],[3,4]]]", [SQUARE], {"points": 1}),
        (f"[{SQUARE},{OTHER.replace('900', '1021')}]", [SQUARE], {"outside": 1}),
    ],
)
def test_rings_are_read(text, rings, repairs):
    said = read_mask(text, "polygon", (1000, 500))
    assert said.readable and said.repairs == repairs and said.grid is None
    expected = {SQUARE: [100, 50, 300, 50, 300, 150, 100, 150], OTHER: [500, 250, 900, 250, 900, 450]}
    assert said.rings == [expected[ring] for ring in rings]
    assert said.runs() == rings_to_runs([expected[ring] for ring in rings], (1000, 500))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "none",
        "[[]]",
        f"Here it is: [{SQUARE}]",
        f"[{SQUARE}] is it",
        f"[{SQUARE}, and more",
        f"```[{SQUARE}]``` or ```[{OTHER}]```",
        "[[[1,2],[3,4]]]",
        "[[[1021,2],[3,4],[5,6]]]",
        "[" * 100_000,
        f"[[{','.join(['[1,2]'] * 257)}]]",
        "[[[1e3,0],[0,0],[0,9]]]",
    ],
)
def test_what_is_no_rings_is_unreadable(text):
    said = read_mask(text, "polygon", (1000, 500))
    assert not said.readable and said.rings is None and area(said.runs()) == 0


PIECES = st.sampled_from(
    [
        "<seg>",
        "</seg>",
        "0*4",
        "1*4",
        ",",
        ";",
        "| ",
        "\n ",
        "others *4",
        "dam *2",
        "[",
        "]",
        "[1,2]",
        "```",
        " ",
        "a",
        "-9",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join), st.sampled_from(sorted(FORMS)))
def test_no_text_raises(text, form):
    said = read_mask(text, form, SIZE, RESIZED, "dam")
    assert said.readable == ((said.grid is not None) or (said.rings is not None))
    assert pixels_of(said.runs()).shape == (224, 112)
    assert all(count > 0 for count in said.repairs.values())


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize(
    "part",
    [
        "<seg>",
        "0*1,",
        "0*1;",
        "1*999999999,",
        "others *1| ",
        "others",
        "a ",
        " *",
        "[[1,2],[3,4],[5,6]],",
        "[1,2],",
        "[ ",
        "```",
    ],
)
def test_long_texts_take_linear_time(form, part):
    read_mask(part, form, SIZE, RESIZED)
    for text in (
        part * (200_000 // len(part)),
        "<seg>" + part * (200_000 // len(part)) + "</seg>",
        "[" + part * 20_000,
    ):
        began = time.process_time()
        read_mask(text, form, SIZE, RESIZED)
        assert time.process_time() - began < 1


def test_forms_are_known_by_name():
    with pytest.raises(RecipeError, match=r"'rle', expected one of rscovlm, grid32, text4seg, text4seg24, polygon"):
        check_form("rle")
    with pytest.raises(RecipeError, match=r"'geoground' \(its code and files could not be read.*grid32"):
        write_mask(runs_of(LABELS), "geoground")
    with pytest.raises(DataError, match="rscovlm counts cells of 28 pixels of the resized image: its size is needed"):
        write_mask(runs_of(LABELS), "rscovlm")
    assert [form for form in FORMS if FORMS[form].resized] == ["rscovlm"]
    for form in FORMS:
        assert asking(form).wording.format(question="dam").count("dam") == 1 and asking(form).told


def test_the_grid_is_the_resized_pictures_squares_of_28():
    """504 x 504 is 18 x 18 (RSCoVLM); 448 x 336 in squares of 28 is 16 x 12; no multiple: the nearest count, one at
    least."""
    shape = FORMS["rscovlm"].shape
    assert [shape((504, 504)), shape((448, 336)), shape((336, 300)), shape((10, 10))] == [
        (18, 18),
        (12, 16),
        (11, 12),
        (1, 1),
    ]


def test_the_written_example_of_rscovlm():
    mask = np.zeros((84, 112), bool)
    mask[40, 30] = mask[41, 70] = True
    assert write_mask(runs_of(mask), "rscovlm", (112, 84)) == "<seg>0*4;0*1,1*2,0*1;0*4;</seg>"
