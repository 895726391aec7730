"""The commands of the demo's roads, read as the launchers read them; and the corpus to be curated."""

import importlib
import json
from pathlib import Path

import pytest

import samples
from demo import learned, noisy, road
from demo.change import road as change_road
from demo.detect import road as detect_road
from demo.world.captions import gold
from demo.world.scene import scene
from demo.zoom import road as zoom_road
from stage.recipe import config
from tests.project.test_project import STAGES
from tests.support.processes.commands import ROOT


def below_root(path: str) -> Path:
    return Path(path).relative_to(ROOT) if Path(path).is_absolute() else Path(path)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("module", [road, learned, zoom_road, detect_road, change_road])
def test_every_command_is_one_its_launcher_takes(module, quick, monkeypatch):
    """Recipes with these overrides resolve; every folder that is read was written by a command before."""
    monkeypatch.chdir(ROOT)
    written = {"runs/x/sft", "runs/x/data", "runs/x/eval/sft", "runs/x/eval/grpo"} if module is learned else set()
    for command in module.stages("runs/x", 3, quick):
        if "accelerate" in command:
            launcher, recipe, *overrides = command[command.index(next(c for c in command if "launch/" in c)) :]
            stage = Path(launcher).stem
            place, name = STAGES[stage].split(":")
            found = config.load(recipe, getattr(importlib.import_module(place), name), overrides)
            assert (ROOT / launcher).is_file() and found.stage == stage and found.overwrite
            written.add(below_root(found.output).as_posix())
            read = [source.path for source in (*found.data.train, *found.data.eval)]
            read += [found.model.path] if stage not in ("curate",) else []
        else:
            read = [part.partition("=")[2] for part in command if "=runs/" in part]
            written |= {part for part in command if part.startswith("runs/x/")}
        for path in read:
            if below_root(path).parts[0] == "runs":
                assert any(below_root(path).is_relative_to(folder) for folder in written), (command, path)


def test_a_third_of_the_noisy_captions_is_true(tmp_path):
    noisy.write(tmp_path, noisy.FIRST, 60)
    rows = json.loads((tmp_path / "captions.json").read_text())
    values = [gold(row["messages"][1]["value"], scene(int(row["id"]))) for row in rows]
    assert len(values) == 60 and 12 <= sum(value == 1 for value in values) <= 30
    assert min(values) < 0.5  # some are badly wrong
    read = list(samples.read(tmp_path / "captions.json", format="sharegpt", task="open_ended"))
    assert read[0].messages[-1]["role"] == "assistant" and Path(read[0].images[0]).is_file()
