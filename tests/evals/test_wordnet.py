"""LRS-VQA as published: WordNet's synonyms, from a tiny database in its real format; the mean of its sources."""

import itertools
import json

import pytest

from evals.benchmarks import find, session
from evals.predictions import Prediction
from evals.scoring import wordnet
from evals.scoring.reading import Reading
from vlm.common.errors import DataError

WHOLE = Reading("qwen2_vl", "text")
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"
FILES = {
    # 01: auto, car; 02: motor vehicle (its hypernym); 03: car, railcar; 04: goose; 05: bus; 06: box
    "index.noun": "auto n 1 1 @ 1 1 00000001  \nautomobile n 1 2 @ ~ 1 1 00000001  \n"
    "car n 2 3 @ ~ #p 2 1 00000001 00000003  \nmotor_vehicle n 1 1 ~ 1 0 00000002  \nrailcar n 1 1 @ 1 0 00000003  \n"
    "goose n 1 1 @ 1 0 00000004  \nbus n 1 1 @ 1 0 00000005  \n"
    "coach n 1 1 @ 1 0 00000005  \nbox n 1 1 @ 1 0 00000006  \n"
    "crate n 1 1 @ 1 0 00000006  \npark n 1 1 @ 1 0 00000007  \nwork n 1 1 @ 1 0 00000007  \n",
    "index.verb": "park v 1 1 @ 1 0 00000007  \nhit v 1 1 @ 1 0 00000008  \nstrike v 1 1 @ 1 0 00000008  \n",
    "index.adj": "big a 1 1 ! 1 1 00000001  \nlarge a 1 1 ! 1 1 00000001  \nfast a 1 0 1 0 00000002  \n",
    "index.adv": "fast r 1 0 1 0 00000003  \nquickly r 1 0 1 0 00000003  \n",
    "noun.exc": "geese goose  \n",
    "verb.exc": "struck strike  \n",
    "adj.exc": "bigger big  \n",
    "adv.exc": "",
}


@pytest.fixture
def database(tmp_path, monkeypatch):
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text((LICENCE if name.startswith("index") else "") + text)
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    return folder


@pytest.fixture
def absent(tmp_path, monkeypatch):
    monkeypatch.setattr(wordnet, "FOLDERS", (str(tmp_path / "nowhere"),))
    monkeypatch.delenv("WNSEARCHDIR", raising=False)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("car", "auto", True), ("car", "railcar", True),  # in one of car's two synsets each
        ("auto", "railcar", False),  # not transitive
        ("car", "motor_vehicle", False),  # its hypernym: one edge, 1 / 2
        ("cars", "automobile", True), ("buses", "coach", True), ("boxes", "crates", True),  # Morphy's rules
        ("geese", "goose", True), ("struck", "hit", True), ("hitting", "strike", False),  # "hitt" is no verb
        ("carses", "auto", False),  # one inflection is taken off, not two
        ("CAR", "Auto", True), ("bigger", "large", True), ("larger", "big", True), ("fast", "quickly", True),
        ("park", "work", True), ("parked", "work", False),  # a verb and a noun have offsets of their own files
        ("car", "", False), ("", "", False), ("car park", "car park", False), ("zzz", "zzz", False), ("s", "s", False),
    ],
)  # fmt: skip
def test_synonyms(database, a, b, expected):
    words = wordnet.load(database)
    assert words.synonyms(a, b) is words.synonyms(b, a) is expected


@pytest.mark.parametrize(
    ("word", "lemma"),
    [("cars", "car"), ("geese", "goose"), ("buses", "bus"), ("bus", "bus"), ("parked", "parked"), ("zzz", "zzz")],
)
def test_lemmas_are_nouns(database, word, lemma):
    """As NLTK's WordNetLemmatizer: of the forms that are nouns the shortest, else the word."""
    assert wordnet.load(database).lemma(word) == lemma


def test_lrs_gro_by_hand(database):
    """Equal in lower case, full stops and all, or lemmas in one synset; the mean is over the first types."""
    rows = [
        gro(1, "object,Counting", "3", "3"),
        gro(2, "object,Object category", "Autos", "car"),  # a synonym
        gro(3, "object,Object category", "car.", "car"),  # the stop stays, and "car." is no word
        gro(4, "global,Scene Type", "port", "harbour"),
        gro(5, "region,Region status", "works", "parks"),  # lemmas work, park: one synset as nouns
        gro(6, "region,Counting", "", "2"),
    ]
    found = find("lrs-gro").score(rows, WHOLE).metrics
    values = {name: metric.value for name, metric in found.items()}
    assert values["vqa/exact:wordnet"] == 3 / 6 and values["vqa/exact"] == 2 / 6
    assert values["vqa/exact:wordnet[object]"] == 2 / 3 and values["vqa/exact:wordnet[Object category]"] == 1 / 2
    assert values["vqa/mean_of_kinds:wordnet"] == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
    assert values["vqa/mean_of_kinds"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert "over global, object, region" in found["vqa/mean_of_kinds"].convention
    assert list(found).count("vqa/mean_of_kinds") == 1 and found["vqa/mean_of_kinds"].n == 6
    assert "lemmas" in found["vqa/exact:wordnet"].convention and ">= 0.8" in found["vqa/exact:wordnet"].convention


def gro(number, kind, said, truth):
    return Prediction(str(number), "test", "vqa", said, kind=kind, answer=truth)


def test_lrs_gro_without_wordnet(absent):
    found = find("lrs-gro").score([gro(1, "object,Counting", "3", "3")], WHOLE)
    assert set(found.missing) == {"vqa/exact:wordnet", "vqa/mean_of_kinds:wordnet"}
    assert found.metrics["vqa/mean_of_kinds"].value == 1


def test_above_four_fifths_is_the_same_synset():
    """NLTK's path similarity is 1 / (1 + edges): 1, 1/2, 1/3 …"""
    assert [edges for edges in range(50) if 1 / (1 + edges) > 0.8] == [0]


def row(number, source, category, said, truth):
    return Prediction(f"{source}_{number}", "LRS_VQA_merged", "vqa", said, kind=category, answer=truth)


ROWS = [
    row(1, "FAIR", "count", "4", "4"),
    row(2, "FAIR", "count", "5", "4"),
    row(3, "FAIR", "object category", "Auto.", "car"),  # a synonym
    row(4, "FAIR", "object category", "bus", "car"),
    row(5, "GLH", "object category", "cars", "automobile"),  # a synonym
    row(6, "STAR", "count", "3", "3"),
    row(7, "STAR", "reasoning", "yes, it is", "yes"),  # leniently
    row(8, "STAR", "reasoning", "no", "yes"),
    row(9, "STAR", "reasoning", "YES.", "yes"),
]
"""FAIR 1 of 4, GLH 0 of 1, STAR 2 of 4 strictly."""


def test_means_by_hand(database):
    values = {name: metric.value for name, metric in find("lrs-vqa").score(ROWS, WHOLE).metrics.items()}
    assert values["vqa/exact"] == 3 / 9 and values["vqa/exact:lenient"] == 4 / 9
    assert values["vqa/mean_of_kinds"] == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    assert values["vqa/mean_of_sources"] == pytest.approx((1 / 4 + 0 + 2 / 4) / 3)
    assert values["vqa/mean_of_sources:lenient"] == pytest.approx((1 / 4 + 0 + 3 / 4) / 3)
    assert values["vqa/exact[source Bridge]"] == 0 and values["vqa/exact[source STAR]"] == 1 / 2
    # FAIR: count 1/2, category 0; Bridge: 0; STAR: count 1, reasoning 1/3
    assert values["vqa/mean_of_sources_and_kinds"] == pytest.approx((1 / 4 + 0 + 2 / 3) / 3)
    # with synonyms 3 and 5 are right, too
    assert values["vqa/exact:wordnet"] == 5 / 9 and values["vqa/exact:wordnet[object category]"] == 2 / 3
    assert values["vqa/mean_of_kinds:wordnet"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert values["vqa/mean_of_sources:wordnet"] == pytest.approx((2 / 4 + 1 + 2 / 4) / 3)
    assert values["vqa/mean_of_sources_and_kinds:wordnet"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)


def test_as_the_published_evaluator_counts(database):
    """Restated: equal in lower case without blanks and full stops around, or any two synsets closer than 0.8."""
    words = wordnet.load(database)

    def right(item):
        said, true = (text.lower().strip().strip(".") for text in (item.completion, item.answer))
        pairs = itertools.product(words.synsets(true), words.synsets(said))
        return said == true or any(1 / (1 + (0 if a == b else 1)) > 0.8 for a, b in pairs)

    shares = []
    for source in ("FAIR", "STAR", "GLH"):
        asked = [item for item in ROWS if item.id.startswith(source)]
        shares.append(sum(map(right, asked)) / len(asked))
    found = find("lrs-vqa").score(ROWS, WHOLE)
    assert found.metrics["vqa/mean_of_sources:wordnet"].value == pytest.approx(sum(shares) / 3)
    low, high = found.intervals["vqa/mean_of_sources_and_kinds:wordnet"]
    assert low <= found.metrics["vqa/mean_of_sources_and_kinds:wordnet"].value <= high
    assert "WordNet" in found.metrics["vqa/mean_of_sources:wordnet"].convention
    assert "FAIR, Bridge, STAR" in found.metrics["vqa/mean_of_sources:wordnet"].convention


def test_without_wordnet_the_report_says_so(absent):
    found = find("lrs-vqa").score(ROWS, WHOLE)
    assert "vqa/mean_of_sources:wordnet" not in found.metrics and "vqa/mean_of_sources" in found.metrics
    assert "apt-get" not in found.missing["vqa/mean_of_sources:wordnet"]
    assert "wordnet-base" in found.missing["vqa/mean_of_sources:wordnet"]
    assert {name for name in found.missing if "wordnet" in name} == {
        f"vqa/{name}:wordnet" for name in ("exact", "mean_of_kinds", "mean_of_sources", "mean_of_sources_and_kinds")
    }


def test_ids_without_a_source(database):
    found = find("lrs-vqa").score([*ROWS, row(1, "XY", "count", "1", "1")], WHOLE)
    assert "vqa/mean_of_sources" not in found.metrics
    assert "1 questions, such as 'XY_1', do not say where they are from" in found.missing["vqa/mean_of_sources"]
    assert session.headline("lrs-vqa", found) == "vqa/mean_of_sources"  # its reason is told in the summary


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("index.noun", "car n 2 1 @ 1 1 00000001\n", r"index.noun, line 2: found 'car n 2 1 @ 1 1 00000001', expected"),
        ("index.verb", "nonsense\n", "index.verb, line 2"),
        ("index.adj", "big a x 1 @ 1 1 00000001\n", "index.adj, line 2"),
    ],
)
def test_files_that_are_broken(database, name, line, message):
    (database / name).write_text(LICENCE + line)
    with pytest.raises(DataError, match=message):
        wordnet.load(database.parent / "wordnet/../wordnet")  # another path: loaded files are remembered


def test_files_that_are_missing(database):
    (database / "verb.exc").unlink()
    with pytest.raises(DataError, match=r"verb\.exc: cannot be read"):
        wordnet.load(database / ".." / "wordnet" / ".")


def test_the_instruction_is_asked_once(tmp_path):
    """All of LRS-VQA's questions end with it."""
    from vlm.prompts import prompt

    told = "Answer the question using a single word or phrase."
    question = {"question_id": "FAIR_1", "image": "LRS_VQA/image/1.tif", "category": "count", "ground_truth": "4"}
    folder = tmp_path / "LRS_VQA/image"
    folder.mkdir(parents=True)
    from PIL import Image

    from samples import mixture

    Image.new("RGB", (20, 20)).save(folder / "1.tif")
    file = tmp_path / "LRS_VQA/LRS_VQA_merged.jsonl"
    file.write_text(json.dumps(question | {"text": f"How many?\n{told}"}) + "\n")
    words = ["--model", "m", "--benchmarks", "lrs-vqa", "--data", str(tmp_path)]
    recipe = session.recipe("lrs-vqa", session.parser().parse_intermixed_args(words))
    (sample,) = mixture.draw(recipe.data, "eval", 0).samples
    assert sample.id == "FAIR_1" and sample.kind == "count"
    (turn,) = prompt(sample, recipe.prompt.style, recipe.prompt.system, recipe.prompt.wording)
    assert turn["content"] == f"How many?\n{told}"
