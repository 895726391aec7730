"""Turns that zoom: what may follow them, where their regions lie, and who passes them on, counts them, or refuses them.

Pictures are 200 x 100 pixels.
"""

from __future__ import annotations

import json

import pytest

import samples
from evals.asking.conversation import conversation
from rewards.curate.corpus import Source, exchange
from rewards.prefer import rows as candidates
from rewards.prefer.recipe import CandidateSource
from rewards.score.model.exchange import Exchange
from rewards.score.training import preferences
from samples import Faults, Sample, fingerprints
from samples.doctor.gallery import Gallery
from samples.doctor.rows import AGAIN, OTHERWISE, Rows
from samples.doctor.subject import Ruler
from samples.facts import CODEC, facts_of, zoomed
from samples.readers.rows import RowFault
from samples.rows import chat_rows, learnt, prompt_rows, taught
from samples.sections import SourceSection
from samples.store import Drawn
from tests.support.sample_rows import dump, put_images, row
from vlm import prompts
from vlm.common.errors import DataError
from vlm.families.sight import USUAL
from vlm.sections import PromptSection

BOX = [20, 10, 80, 60]
ASKED = {"role": "user", "content": "What stands at the pier?"}
ZOOM = {"role": "assistant", "content": "", "zoom": BOX}
SAID = {"role": "assistant", "content": "a crane"}
CHAIN = [ASKED, ZOOM, SAID]
DIRECT = PromptSection(style="direct")


@pytest.fixture
def folder(tmp_path):
    return put_images(tmp_path)


def chain(*turns, **changes):
    return row(task="vqa", boxes=..., answer="a crane", messages=list(turns or CHAIN), **changes)


def read(folder, *rows, **options):
    return list(samples.read(dump(folder / "rows.jsonl", list(rows)), **options))


def test_a_chain_is_read_written_and_kept(folder):
    thought = ZOOM | {"content": "I must look closer.", "zoom": [0, 0, 200, 50]}
    later = {"role": "user", "content": "And beside it?"}
    (one, two) = read(folder, chain(), chain(ASKED, thought, ZOOM, SAID, later, SAID))
    assert one.messages == CHAIN and one.size == (200, 100)
    assert two.messages == [ASKED, thought, ZOOM, SAID, later, SAID]
    assert all(type(x) is float for x in one.messages[1]["zoom"])
    samples.write(folder / "again.jsonl", [one, two])
    assert json.loads((folder / "again.jsonl").read_text().splitlines()[0])["messages"] == CHAIN
    again = [Sample(**{name: getattr(found, name) for name in Sample.__dataclass_fields__} | {"source": "rows"})
             for found in samples.read(folder / "again.jsonl")]  # fmt: skip
    assert again == [one, two]
    assert list(Drawn.of([one, two], CODEC)) == [one, two]


def test_a_zoom_of_none_is_no_zoom(folder):
    (found,) = read(folder, chain(ASKED, SAID | {"zoom": None}))
    assert found.messages == [ASKED, SAID]


@pytest.mark.parametrize("verify", [True, False])
def test_a_region_is_cut_to_the_image_and_that_is_counted(folder, verify):
    faults = Faults()
    wide = ZOOM | {"zoom": [-40, 50, 230, 140]}
    found = read(folder, chain(ASKED, wide, SAID), chain(), faults=faults, verify_images=verify)
    assert [zoomed(one.messages) for one in found] == [[[0, 50, 200, 100]], [BOX]]
    assert faults.cut == 1


@pytest.mark.parametrize(
    ("turns", "kind", "message"),
    [
        ([ASKED, ZOOM], "conversation", r"'messages\[2\].zoom': .*the last turn may not zoom"),
        ([ASKED, ZOOM, ASKED, SAID], "conversation", "found the role 'user'.*the crop follows by itself"),
        ([ASKED, SAID, SAID], "conversation", "found the role 'assistant'.*user and assistant in turn"),
        ([ASKED | {"zoom": BOX}, SAID], "zoom", r"'messages\[1\].zoom': found it in a turn of 'user'"),
        ([ASKED, ZOOM | {"zoom": [1, 2, 3]}, SAID], "wrong_type", r"'messages\[2\].zoom': found \[1, 2, 3\]"),
        ([ASKED, ZOOM | {"zoom": [1, 2, 3, "4"]}, SAID], "wrong_type", "a region"),
        ([ASKED, ZOOM | {"zoom": [0, 0, True, 4]}, SAID], "wrong_type", "a region"),
        ([ASKED, ZOOM | {"zoom": {}}, SAID], "wrong_type", "a region"),
        ([ASKED, ZOOM | {"zoom": [0, 0, float("nan"), 4]}, SAID], "box_outside", "finite"),
        ([ASKED, ZOOM | {"zoom": [80, 10, 20, 60]}, SAID], "box_inverted", r"'messages\[2\].zoom': .*inverted"),
        ([ASKED, ZOOM | {"zoom": [20, 10, 20, 60]}, SAID], "box_inverted", "inverted or empty"),
        ([ASKED, ZOOM | {"zoom": [200, 10, 240, 60]}, SAID], "box_outside", "meets the image of 200 x 100"),
    ],
)  # fmt: skip
def test_faulty_chains(folder, turns, kind, message):
    with pytest.raises(DataError, match=rf"rows.jsonl, line 1, field {message}|line 1.*{message}"):
        read(folder, chain(*turns), chain())
    faults = Faults()
    assert len(read(folder, chain(*turns), chain(), on_fault="skip", faults=faults)) == 1
    assert faults.kinds == {kind: 1}


def test_a_zoom_needs_a_picture(folder):
    with pytest.raises(DataError, match="field 'images': found none, expected an image: a turn zooms into it"):
        read(folder, chain(images=[], size=[200, 100]))


@pytest.mark.parametrize(
    ("frame", "region"),
    [
        ("unit", [0.1, 0.1, 0.4, 0.6]),
        ("percent", [10, 10, 40, 60]),
        ("per_mille", [100, 100, 400, 600]),
        ("xywh", [20, 10, 60, 50]),
    ],
)
def test_zooms_are_in_the_frame_of_the_source(folder, frame, region):
    (found,) = read(folder, chain(ASKED, ZOOM | {"zoom": region}, SAID), frame=frame)
    assert zoomed(found.messages) == [pytest.approx(BOX)]


def test_zooms_that_look_like_fractions_are_doubted(folder):
    with pytest.raises(DataError, match="look like 0–1 .* `frame: unit`"):
        read(folder, *[chain(ASKED, ZOOM | {"zoom": [0.1, 0.1, 0.4, 0.6]}, SAID)] * 60)


def test_rows_of_other_layouts_keep_theirs(folder):
    """ShareGPT's roles, TRL's completion: the contract's key means the same there."""
    shared = {"messages": CHAIN, "images": ["a.png"]}
    (found,) = samples.read(dump(folder / "share.json", [shared]), "sharegpt")
    assert found.messages == CHAIN
    trl = {"prompt": [ASKED], "completion": [ZOOM, SAID], "image": "a.png", "task": "vqa", "answer": "a crane"}
    (found,) = samples.read(dump(folder / "trl.jsonl", [trl]), "trl")
    assert found.messages == CHAIN


def test_the_reply_is_the_whole_chain(folder):
    """What is asked ends before the first zoom: GRPO and evaluation show neither call nor answer."""
    later = {"role": "user", "content": "And beside it?"}
    one, two = read(folder, chain(), chain(ASKED, ZOOM, SAID, later, ZOOM, ZOOM | {"content": "Closer."}, SAID))
    worded = "What stands at the pier?\nAnswer with a single word or number."
    assert prompts.replied(one.messages) == 1 and prompts.replied(two.messages) == 4
    assert prompts.replied([ASKED]) == 1 and prompts.replied([]) == 0
    assert prompts.prompt(one, "direct") == [ASKED | {"content": worded}]
    assert prompts.prompt(two, "direct") == [ASKED | {"content": worded}, ZOOM, SAID, later]
    assert learnt(one, DIRECT, USUAL) == [ZOOM, SAID] and len(learnt(two, DIRECT, USUAL)) == 3
    assert [facts_of(sample).zooms for sample in (one, two)] == ["reply", "asked"]
    assert facts_of(read(folder, chain(ASKED, SAID))[0]).zooms == ""
    (asked,) = prompt_rows([one], DIRECT)
    assert asked["prompt"] == [ASKED | {"content": worded}]


def test_the_answer_of_a_chain_is_judged_by_its_last_turn(folder):
    tagged = SAID | {"content": "<think>There.</think><answer>a crane</answer>"}
    plain, good = read(folder, chain(), chain(ASKED, ZOOM, tagged))
    assert [facts_of(sample).reply for sample in (plain, good)] == ["bare", "tagged"]


def test_without_the_tool_nothing_zooms(folder):
    """No call is learned of which the crop would never be seen, and no history shown with its crops left out."""
    later = {"role": "user", "content": "And beside it?"}
    (one,) = read(folder, chain())
    (two,) = read(folder, chain(ASKED, ZOOM, SAID, later))
    said = r"rows: row '#1': field 'messages\[2\].zoom': found a turn that zooms into \[20.0, .*tools: \[{use: zoom}\]"
    for refuses in (
        lambda: chat_rows([one], DIRECT),
        lambda: taught(one, DIRECT),
        lambda: prompt_rows([two], DIRECT),
        lambda: conversation(two, DIRECT, USUAL),
    ):
        with pytest.raises(DataError, match=said):
            refuses()
    assert len(conversation(one, DIRECT, USUAL)) == 1


def test_scorers_refuse_chains(folder):
    path = dump(folder / "rows.jsonl", [chain(), chain(ASKED, SAID)])
    source = Source(SourceSection(path=str(path)))
    (_, first), (_, second) = source
    with pytest.raises(RowFault, match=r"'messages.zoom': found a turn that zooms into \[20.0.*a scorer sees no crops"):
        source.sample(1, first)
    assert exchange(source.sample(2, second), "qwen2_vl").messages[-1] == SAID
    (one,) = read(folder, chain())
    with pytest.raises(DataError, match="exchange: found a turn that zooms"):
        Exchange(tuple(one.messages), tuple(one.images))
    # an answer drawn elsewhere is scored as an answer to the question: the chain was the reference's
    assert Exchange.from_sample(one, "a tower").messages == (ASKED, {"role": "assistant", "content": "a tower"})


def test_candidates_and_preferences_refuse_chains(folder):
    drawn = chain(candidates=["a crane", "a tower"])
    path = dump(folder / "candidates.jsonl", [drawn])
    with pytest.raises(DataError, match="'messages.zoom': found a turn that zooms"):
        list(candidates.read(CandidateSource(path=str(path)), "error", Faults()))
    later = {"role": "user", "content": "And beside it?"}
    ranked = {"images": ["a.png"], "messages": [*CHAIN, later], "ranked": ["a crane", "a tower"]}
    with pytest.raises(DataError, match="'messages.zoom': found .*the score model reads no crops"):
        list(preferences.read(dump(folder / "preferences.jsonl", [ranked])))


def test_the_doctor_counts_zooms_and_names_odd_ones(folder):
    """60 x 50 of 200 x 100 pixels are 0.15 of the image."""
    whole = ZOOM | {"zoom": [0, 0, 200, 100]}
    turns = [CHAIN, CHAIN, [ASKED, whole, SAID], [ASKED, ZOOM, ZOOM, SAID], [ASKED, SAID]]
    with Gallery(1) as gallery:
        found = Rows(gallery, Ruler(DIRECT, answers=True), USUAL)
        for sample in read(folder, *(chain(*one) for one in turns)):
            found.add(sample, "train", 0)
    assert list(found.zoom_sides) == pytest.approx([0.15**0.5, 0.15**0.5, 1, 0.15**0.5, 0.15**0.5])
    assert found.boxes.counts == {"zoom into nearly the whole image": 1, "zoomed into twice": 1}
    assert found.repeated.counts == {AGAIN: 1, OTHERWISE: 3}
    assert list(found.mute) == [1, 1, 1, 1, 0]  # without the tool


def test_a_digest_tells_chains_apart(folder):
    made = [[ASKED, SAID], CHAIN, [ASKED, ZOOM | {"zoom": [20, 10, 80, 61]}, SAID]]
    assert len({fingerprints.of_rows([Sample([], one, "vqa")], folder) for one in made}) == 3
