"""What a recipe says about rasters and strips reaches every stage that opens a picture: the stages' own reading code.

One raster of 4 bands of 16 bits, in which red is 3,000, green 1,500, blue 0 and near infrared 600 of 3,000: shown as
[4, 3, 2] it is (51, 0, 128), as [1, 2, 3] (255, 128, 0).
"""

from __future__ import annotations

import io
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from samples import Faults, mixture, rows
from stage.recipe import config
from tests.support.doctored import doctor, launcher
from tests.support.layouts import build
from tests.support.processes.commands import ROOT
from vlm.common.errors import DataError
from vlm.families.sight import Grid
from vlm.pictures import images, rasters
from vlm.sections import PromptSection

rasterio = pytest.importorskip("rasterio")

FALSE, TRUE = (51, 0, 128), (255, 128, 0)
RASTER = {"bands": [4, 3, 2], "stretch": {"range": [0, 3000]}}
PLAIN = {"bands": [1, 2, 3], "stretch": {"range": [0, 3000]}}
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dam."}]


def raster(path, size=(40, 20)):
    values = np.zeros((4, size[1], size[0]), "uint16")
    values[0], values[1], values[3] = 3000, 1500, 600
    shape = {"count": 4, "width": size[0], "height": size[1], "dtype": "uint16", "photometric": "minisblack"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", **shape) as file:
            file.write(values)


@pytest.fixture
def folder(tmp_path):
    raster(tmp_path / "a.tif")
    Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / "b.png")
    Image.new("RGB", (804, 4)).save(tmp_path / "strip.png")  # 201 times as wide as high
    Image.new("RGB", (800, 4)).save(tmp_path / "long.png")  # 200 times
    return tmp_path


def recipe_of(stage):
    from evals.recipe import EvalRecipe
    from rewards.curate.recipe import CurateRecipe
    from rewards.prefer.recipe import PreferRecipe
    from rewards.score.training.recipe import ScoreRecipe
    from rewards.select.recipe import BonRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe

    return {
        "sft": SFTRecipe, "grpo": GRPORecipe, "eval": EvalRecipe, "bon": BonRecipe, "curate": CurateRecipe,
        "score": ScoreRecipe, "prefer": PreferRecipe,
    }[stage]  # fmt: skip


STAGES = ("sft", "grpo", "eval", "bon", "curate", "score", "prefer")
MORE = {
    "grpo": {"rewards": [{"use": "gated"}]},
    "bon": {"selectors": ["random"]},
    "curate": {"by": "random"},
    "prefer": {"judge": None},
}


def recipe(stage, folder, names, own=None, images=None, on_fault="error"):
    """A recipe of one file of rows about these pictures. own: the source's `raster:`; images: the recipe's section."""
    shown = [
        {"images": [name], "messages": TURNS, "task": "vqa", "answer": "dam", "id": str(number), "question": "What?",
         "ranked": ["A dam.", "A lake."], "candidates": ["dam", "lake"]}
        for number, name in enumerate(names)
    ]  # fmt: skip
    if stage in ("prefer", "score"):
        shown = [{key: value for key, value in row.items() if key != "messages"} for row in shown]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    source = {"path": str(folder / "rows.jsonl")} | ({} if own is None else {"raster": own})
    role = "eval" if stage in ("eval", "bon") else "train"
    data = [source] if stage == "prefer" else {role: [source], "on_fault": on_fault}
    values = {"stage": stage, "output": str(folder / "run"), "data": data} | MORE.get(stage, {})
    if stage == "prefer":
        values["on_fault"] = on_fault
    elif stage != "curate":
        values["model"] = {"path": "x"}
    if images is not None:
        values["images"] = images
    return config.build(values, recipe_of(stage), [], "here")


def read(stage, made):
    """The pictures of the rows as the stage reads them, before any weights: [(w, h, first pixel), …]."""
    prompt = PromptSection()
    if stage in ("sft", "grpo"):
        drawn = mixture.draw(made.data, "train", made.seed)
        table = (rows.chat_rows if stage == "sft" else rows.prompt_rows)(drawn.samples, prompt)
        return [row["images"][0] for row in table]
    if stage == "eval":
        from evals.asking.conversation import conversation

        drawn = mixture.draw(made.data, "eval", made.seed).samples
        turns = [conversation(sample, prompt, Grid(28, 784, 10**6)) for sample in drawn]
        return [one[-1]["content"][0]["image"] for one in turns]
    if stage == "bon":
        from rewards.score.model.exchange import Exchange

        drawn = mixture.draw(made.data, "eval", made.seed).samples
        return preprocessed([Exchange.from_sample(sample, "dam") for sample in drawn])
    if stage == "curate":
        from rewards.curate.stage import run

        seen = []

        class Scorer:
            def score(self, exchanges):
                seen.extend(exchanges)
                return [0.5 for _ in exchanges]

        run(made, lambda: Scorer())
        return preprocessed(seen)
    if stage == "score":
        from rewards.score.training.preferences import collect

        return preprocessed([one.exchanges()[0] for one in collect(made.data.train, made.data.on_fault, "train")])
    import base64

    from rewards.prefer.rows import collect as candidates
    from stage.endpoint.client import data_url

    urls = [data_url(item.sample.images[0], 10**6) for item in candidates(made.data, made.on_fault)]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def preprocessed(exchanges):
    """What the score model's processor is given."""
    from rewards.score.model.exchange import preprocess

    taken = []

    class ImageProcessor:
        def __call__(self, opened, return_tensors):
            import torch

            taken.extend(opened)
            return {"pixel_values": torch.zeros(1, 1), "image_grid_thw": torch.ones(1, 3)}

    processor = SimpleNamespace(image_processor=ImageProcessor(), sight=Grid(28, 784, 10**6))
    preprocess([image for exchange in exchanges for image in exchange.images], processor)
    return taken


def colours(pictures):
    return [picture.getpixel((3, 3)) for picture in pictures]


def near(found, expected):
    """JPEG of a picture of one colour is that colour, within rounding of YCbCr."""
    return np.abs(np.asarray(found, float) - np.asarray(expected, float)).max() <= 2


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_shows_the_raster_as_the_recipe_says(folder, stage):
    for own, section, expected in (
        (None, {"raster": RASTER}, FALSE),
        (RASTER, None, FALSE),
        (PLAIN, {"raster": RASTER}, TRUE),
    ):
        made = recipe(stage, folder, ["a.tif"], own, section)
        made.overwrite = True
        assert near(colours(read(stage, made)), [expected])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_or_leaves_out_a_raster_that_nobody_spoke_of(folder, stage):
    with pytest.raises(DataError, match=r"(line 1|row '0').*a\.tif: found 4 bands of uint16.*images: \{raster"):
        read(stage, recipe(stage, folder, ["a.tif", "b.png"]))
    made = recipe(stage, folder, ["a.tif", "b.png"], on_fault="skip")
    made.overwrite = True
    assert near(colours(read(stage, made)), [(9, 9, 9)])


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_out_a_strip_or_names_it(folder, stage, caplog, capsys):
    words = (
        r"line 2.*field 'images': found .*strip\.png of 804 x 4 pixels, expected sides that differ at most 200 times"
    )
    with pytest.raises(DataError, match=words):
        read(stage, recipe(stage, folder, ["long.png", "strip.png", "b.png"]))
    made = recipe(stage, folder, ["long.png", "strip.png", "b.png"], on_fault="skip")
    made.overwrite = True
    assert [picture.size for picture in read(stage, made)] == [(800, 4), (40, 20)]
    assert "strip: 1" in caplog.text + capsys.readouterr().out


def test_a_source_takes_the_section_back(folder):
    made = recipe("sft", folder, ["b.png"], "plain", {"raster": RASTER})
    assert mixture.draw(made.data, "train", 0).samples[0].images == [str(folder / "b.png")]
    with pytest.raises(DataError, match="found 3 bands of uint8.*expected at least 4"):
        mixture.draw(recipe("sft", folder, ["b.png"], None, {"raster": RASTER}).data, "train", 0)


def test_what_is_kept_of_results_changes_with_the_raster(folder):
    from rewards.curate.stage import scored_by
    from rewards.prefer.rows import collect as candidates
    from rewards.select.stage import shown_as
    from samples.fingerprints import of_rows

    def three(stage, ask):
        ways = (
            (None, {"raster": RASTER}),
            (None, {"raster": PLAIN}),
            (PLAIN, None),
            (None, {"raster": RASTER, "cache": 9}),
        )
        return [ask(recipe(stage, folder, ["a.tif"], *way)) for way in ways]

    for stage, ask in (
        ("curate", scored_by),
        ("bon", lambda made: str(shown_as(made))),
        ("sft", lambda made: of_rows(mixture.draw(made.data, "train", 0).samples, folder)),
        ("prefer", lambda made: candidates(made.data, "error")[0].fingerprint),
    ):
        first, second, third, cached = three(stage, ask)
        assert first != second and first == cached, stage
        assert stage == "curate" or second == third, stage  # there the source's own keys count, too
    before, after = (recipe("eval", folder, ["a.tif"], None, {"raster": one}) for one in (RASTER, PLAIN))
    assert set(config.difference(before, after)) == {f"images.raster.bands.{n}" for n in range(3)}


@pytest.mark.parametrize("place", ["DIOR-RSVG", "AID", "RSVQA-LR", "VRSBench/VRSBench_EVAL_Cap.json"])
def test_readers_of_every_kind_hand_it_on(tmp_path, place):
    from samples import read as samples_of
    from vlm.sections import RasterSection

    root = build(tmp_path / "data")
    options = {"split": "train"} if place == "DIOR-RSVG" else {"split": "test"} if place == "RSVQA-LR" else {}
    found = list(samples_of(root / place, **options, on_fault="skip", raster=RasterSection(bands=[3, 2, 1])))
    assert found and all(rasters.split(image)[1].bands == [3, 2, 1] for one in found for image in one.images)
    for image in (image for one in found for image in one.images):
        assert images.load(image).getpixel((5, 5))[0] == images.load(rasters.plain(image)).getpixel((5, 5))[2]


def test_tables_with_bytes_hand_it_on(tmp_path):
    from samples import read as samples_of
    from vlm.sections import RasterSection

    root = build(tmp_path / "data")
    for place, format in (("ScoreRS-RL/bytes.parquet", "scorers_rl_unit"), ("TRL/prompts.parquet", None)):
        found = list(samples_of(root / place, format, on_fault="skip", raster=RasterSection(bands=[3, 2, 1])))
        assert {images.load(image).getpixel((0, 0)) for one in found for image in one.images} == {(60, 90, 40)}


def test_a_service_gets_the_pixels_that_the_recipe_shows_and_its_own_recipe_counts_for_what_it_gets(folder):
    from rewards.score.model.exchange import Exchange
    from rewards.score.service.recipe import LimitsSection
    from rewards.score.service.wire import decode, requests_of
    from vlm.sections import RasterSection

    section = RasterSection.model_validate(RASTER)
    for root in (None, str(folder)):  # below the service's own folder, too
        asked = Exchange.of("What?", "A dam.", [rasters.named(str(folder / "a.tif"), section)])
        (request,) = requests_of([asked], 9, 10**6, root)
        (got,) = decode(request.model_dump_json().encode(), LimitsSection(), root)
        assert images.load(got.exchange.images[0]).getpixel((0, 0)) == FALSE
    (request,) = requests_of([Exchange.of("What?", "A dam.", [str(folder / "a.tif")])], 9, 10**6)
    (got,) = decode(request.model_dump_json().encode(), LimitsSection(), None, RasterSection.model_validate(PLAIN))
    assert images.load(got.exchange.images[0]).getpixel((0, 0)) == TRUE


def test_reports_show_what_was_shown(folder):
    """A table of completions and predictions hold the name, and with it how the raster was read."""
    from pathlib import Path

    from evals.predictions import from_sample
    from studies.report.pictures import Pictures
    from vlm.pictures.drawing import Picture, grid

    made = recipe("grpo", folder, ["a.tif"], None, {"raster": RASTER})
    (sample,) = mixture.draw(made.data, "train", 0).samples
    (row,) = rows.prompt_rows([sample], PromptSection())
    held = from_sample(sample, "dam").image
    assert row["image_file"] == held == sample.images[0]
    shown = Pictures()
    assert shown.add([Path(held)]) == {Path(held): 0} and not shown.missing
    drawn = grid([Picture(held, "What?")], folder / "grid.png", cell=200)
    assert FALSE in {colour for _, colour in drawn.getcolors(10**6)}
    # written as our JSONL and read again, it is still the same picture
    from samples import read as samples_of
    from samples import write

    write(folder / "again.jsonl", [sample])
    assert '"a.tif#raster={' in (folder / "again.jsonl").read_text()
    assert next(samples_of(folder / "again.jsonl")).images == sample.images


def test_the_doctor_sees_it_too(folder):
    made = recipe("sft", folder, ["a.tif", "b.png"])
    path = folder / "recipe.yaml"
    text = config.to_dict(made) | {"data": {"train": [{"path": str(folder / "rows.jsonl")}]}}
    path.write_text(json.dumps({**text, "images": {"min_pixels": 12544, "max_pixels": 12544}}))
    assert launcher() and doctor(folder) == 1
    report = json.loads((folder / "out/report.json").read_text())
    assert report["sources"][0]["faulty"] == 1
    own = json.dumps({"bands": [4, 3, 2], "stretch": {"range": [0, 3000]}})
    path.write_text(path.read_text().replace('rows.jsonl"', f'rows.jsonl", "limit": 1, "raster": {own}'))
    assert doctor(folder) == 0
    assert json.loads((folder / "out/report.json").read_text())["sources"][0]["faulty"] == 0


def test_faults_of_strips_are_counted_by_kind(folder):
    from samples import read as samples_of

    recipe("sft", folder, ["long.png", "strip.png", "b.png"])
    faults = Faults()
    assert len(list(samples_of(folder / "rows.jsonl", on_fault="skip", faults=faults))) == 2
    assert dict(faults.kinds) == {"strip": 1}


def test_curation_finds_strips_before_weights_load(folder):
    from rewards.curate.stage import run

    made = recipe("curate", folder, [*["b.png"] * 100, "strip.png"])  # beyond the first chunk of 64 rows
    with pytest.raises(DataError, match="line 101.*804 x 4"):
        run(made, lambda: pytest.fail("weights were loaded"))


def test_launchers_take_limit_and_cache_from_the_recipe(folder, monkeypatch):
    """`stage.cli.launch` for every stage; the doctor by its own command."""
    from sft.recipe import SFTRecipe
    from stage.cli import launch
    from vlm.pictures import cache

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(cache.decoded, "most", cache.decoded.most)
    monkeypatch.setenv(images.SETTINGS, "")
    recipe("sft", folder, ["b.png"])
    path, found = folder / "recipe.yaml", []
    path.write_text(
        f"stage: sft\nmodel: {{path: x}}\noutput: {folder}/run\nimages: {{limit: 799, cache: 7}}\n"
        f"data: {{train: [{{path: {folder}/rows.jsonl}}]}}\n"
    )

    def train(made):
        found.append((images.limit(), cache.decoded.most))
        mixture.draw(made.data, "train", 0)

    assert launch(SFTRecipe, train, train, [str(path)]) == 2  # 40 × 20 = 800 pixels
    assert launch(SFTRecipe, train, train, [str(path), "images.limit=800"]) == 0
    assert found == [(799, 7 * 2**20), (800, 7 * 2**20)]
    limits = ("images={limit: 799, min_pixels: 12544, max_pixels: 12544}", f"model={{path: {ROOT}/demo/base}}")
    assert doctor(folder, *limits) == 1 and images.limit() == 799
    assert "images.limit" in (folder / "out/faults.jsonl").read_text()
