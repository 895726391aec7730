"""The sections that the stages share: loading, what may not go together, documentation, light imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samples.sections import DataSection, SourceSection
from stage.recipe import config
from stage.recipe.keys import describe
from stage.recipe.sections import ShardingSection
from stage.tracking.section import TRACKERS, TrackingSection
from tests.support.runs.example_recipe import message, writer
from vlm.common.section import Section
from vlm.sections import ImageSection, LoraSection, ModelSection, PromptSection

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def write(tmp_path):
    return writer(tmp_path)


class Shared(Section):
    model: ModelSection
    data: DataSection = DataSection()
    images: ImageSection = ImageSection()
    prompt: PromptSection = PromptSection()
    sharding: ShardingSection = ShardingSection()
    tracking: TrackingSection = TrackingSection()


def test_shared_sections_load(write):
    text = """
model: {path: some/hub-id, revision: 1234567, attention: sdpa, freeze: [vision_tower], lora: {r: 128}}
data: {train: [{path: a.jsonl, limit: 3, task: vqa}], on_fault: skip, tasks: [vqa]}
prompt: {notation: vhm, wording: {vqa: "Q: {question}"}}
sharding: {zero: 3, offload: true}
tracking: {report_to: [wandb], mode: offline}
"""
    recipe = config.load(write(text), Shared)
    assert recipe.model.revision == "1234567"
    assert recipe.model.lora == LoraSection(r=128, alpha=128, dropout=0.05, target_modules=None)
    assert recipe.data.train == [SourceSection(path="a.jsonl", task="vqa", limit=3)]
    assert (recipe.images.min_pixels, recipe.images.max_pixels) == (512 * 512, 1024 * 1024)
    assert recipe.sharding.zero == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.path=''", "in `model`: path is empty"),
        (
            "model={attention: flash_attention_2, dtype: float32}",
            "in `model`: attention flash_attention_2 cannot run",
        ),
        ("model.freeze=[vision_tower, merger, language_model]", "in `model`: freeze names all three parts"),
        (
            "model={freeze: [language_model], lora: {}}",
            "in `model`: freeze names language_model, but lora would train every linear layer in it",
        ),
        (
            "model={freeze: [language_model], lora: {target_modules: [gate_up_proj, qkv]}}",
            "in `model`: freeze names language_model, but lora would train gate_up_proj in it",
        ),
        ("model.lora.r=0", "in `model.lora`: r = 0"),
        ("model.lora.dropout=1", "in `model.lora`: dropout = 1.0; expected 0 ≤ dropout < 1"),
        ("model.lora.target_modules=[]", "in `model.lora`: target_modules is empty"),
        ("images.min_pixels=2000000", "in `images`: min_pixels = 2000000, max_pixels = 1048576"),
        ("images.random_resize={min_pixels: 99, max_pixels: 9}", "in `images.random_resize`: min_pixels = 99"),
        (
            "images.random_resize={}",
            "in `images`: random_resize draws 50176 to 1016064 pixels, beyond min_pixels = 262144",
        ),
        ("prompt.notation=vmh", "in `prompt`: notation = 'vmh'; known notations: qwen2_vl, qwen2_5_vl, qwen3_vl, vhm"),
        ("prompt.wording.vga=x {question}", "`prompt`: wording.vga: no such task"),
        ("data.train=[{path: a}, {path: b, limit: 0}]", "in `data.train.1`: limit = 0"),
        (
            "data.train=[{path: a, task: vga}]",
            "in `data.train.0`: task: found 'vga', expected one of grounding, vqa",
        ),
        ("data.train=[{path: a, format: csv}]", "in `data.train.0`: format = 'csv'; known formats: "),
        ("data.tasks=[]", "in `data`: tasks is empty"),
        ("data.tasks=[vqa, x]", "in `data`: tasks: found 'x'"),
        ("sharding.offload=true", "in `sharding`: offload needs DeepSpeed"),
        ("sharding.zero=4", "`sharding.zero`: found 4 (int), expected one of 0, 1, 2, 3"),
        ("sharding.zero=true", "`sharding.zero`: found true (bool)"),
        ("sharding.zero=2.0", "`sharding.zero`: found 2.0 (float), expected one of 0, 1, 2, 3"),
        ("tracking.report_to=[all]", "in `tracking`: report_to names 'all'"),
    ],
)
def test_impossible_sections_are_refused(write, override, expected):
    assert expected in message(config.load, write("model: {path: hub/id}"), Shared, [override])


def test_what_may_go_together_is_not_refused(write):
    path = write("model: {path: hub/id}")
    recipe = config.load(path, Shared, ["model={freeze: [language_model], lora: {target_modules: [qkv]}}"])
    assert recipe.model.lora.target_modules == ["qkv"]
    every = ["model={freeze: [vision_tower, merger, language_model], lora: {target_modules: [qkv]}}"]
    assert config.load(path, Shared, every).model.freeze == ["vision_tower", "merger", "language_model"]


def test_every_shared_key_is_documented():
    for section in (ModelSection, DataSection, ImageSection, PromptSection, ShardingSection, TrackingSection):
        assert [row.key for row in describe(section) if not row.doc] == []


def test_trackers_are_known_to_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) <= set(INTEGRATION_TO_CALLBACK)


def test_recipes_load_without_torch():
    code = "import sys, stage.recipe.config, stage.recipe.sections; sys.exit(bool({'torch', 'trl'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
