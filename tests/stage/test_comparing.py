"""What a run goes on with is what it began with, or what its recipe accepts: rows, pictures, reward code, weights."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from rewards.score.placement import Loaded
from rl.recipe import GRPORecipe
from rl.stage import planned
from samples import mixture
from samples.fingerprints import PIECE, PIECES, of_pictures
from stage.checkpoints import folders, manifest
from stage.checkpoints.beginning import begin
from stage.guards import lock
from stage.origins import comparing
from stage.origins.comparing import of_mixtures
from stage.recipe import config
from tests.support.processes import commands
from vlm.common.errors import RecipeError, UserError

ARGS = SimpleNamespace(device="cpu", ddp_timeout=1800)


@pytest.fixture
def world(tmp_path, tiny_model, demo_data):
    """A run with a checkpoint, and copies of all that it came from: `open(overrides)` resumes it, up to where weights
    would load."""
    shutil.copytree(demo_data, tmp_path / "data")
    for name in ("model", "score"):
        shutil.copytree(tiny_model, tmp_path / name)
    (tmp_path / "mine.py").write_text("def f(completions, **columns):\n    return [1.0 for _ in completions]\n")

    def opened(*overrides):
        rewards = f"rewards=[{{use: {tmp_path}/mine.py:f}}]"
        argv = commands.grpo(tmp_path / "model", tmp_path / "data", tmp_path / "run", rewards, *overrides)
        recipe = config.load(argv[0], GRPORecipe, argv[1:])
        beginning = begin(recipe)
        data = mixture.draw_all(recipe.data, recipe.seed)
        score, to_write = Loaded(str(tmp_path / "score")), planned(recipe, 8).storage
        try:
            run = beginning.open(ARGS, to_write, lambda: of_mixtures(data), lambda: {"score model 0": score.origin()})
            run.note_record({"seeds": 0} | run.origins)
            return run
        finally:
            lock.release_all()

    run = opened()
    folder = folders.begin(run.folder, 1)
    for name in ("recipe.yaml", "data.json", "record.json"):  # as a trainer's checkpoint holds them
        shutil.copyfile(run.folder / name, folder / name)
    manifest.write(folder, 1, 1, True)
    folders.commit(run.folder, folder)
    return SimpleNamespace(open=opened, folder=tmp_path, run=run.folder)


def pictures(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))


def one_letter(world):
    path = world.folder / "data/grpo/prompts.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[-1])
    row["messages"][0]["content"] += "?"
    path.write_text("\n".join([*lines[:-1], json.dumps(row)]) + "\n")


def one_picture(world):
    """Of the same name and size."""
    row = json.loads((world.folder / "data/grpo/prompts.jsonl").read_text().splitlines()[0])
    path = world.folder / "data/grpo" / row["images"][0]
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)


def reward_code(world):
    (world.folder / "mine.py").write_text("def f(completions, **columns):\n    return [0.5 for _ in completions]\n")


def weights(name):
    def change(world):
        """Of the smallest tensor, one number."""
        file = world.folder / name / "model.safetensors"
        tensors = load_file(file)
        smallest = min(tensors, key=lambda key: tensors[key].numel())
        tensors[smallest].view(-1)[0] += 1
        save_file(tensors, file, metadata={"format": "pt"})

    return change


CHANGES = {
    "data": (one_letter, "data.train.0 .*prompts.jsonl.: other rows than before .16 used then, 16 now"),
    "pictures": (one_picture, "data.train.0 .*prompts.jsonl.: pictures of the same names have other contents"),
    "rewards": (reward_code, ".*/mine.py has another content"),
    "model": (weights("model"), "model.path .*/model.: model.safetensors holds other weights"),
    "score": (weights("score"), "score model 0 .*/score.: model.safetensors holds other weights"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_refused_by_name_and_accepted_by_kind(world, change, caplog):
    make, said = CHANGES[change]
    kind = "rewards" if change == "score" else change
    assert world.open("resume=auto").data  # the same: nothing to say
    before = {name: (world.run / name).read_text() for name in ("data.json", "record.json")}
    make(world)
    others = [other for other in ("data", "pictures", "rewards", "model") if other != kind]
    for accepted in ([], others):
        with pytest.raises(UserError, match=rf"checkpoint-1 was begun with others: {said}.*accept_changes=\[{kind}\]"):
            world.open("resume=auto", f"accept_changes={accepted}")
    assert {name: (world.run / name).read_text() for name in before} == before  # a refusal changes nothing
    with caplog.at_level(logging.WARNING, "stage"):
        world.open("resume=auto", f"accept_changes=[{kind}]")
    (told,) = [entry.getMessage() for entry in caplog.records if "accepted" in entry.getMessage()]
    assert re.search(said, told)
    kept, now = (json.loads((world.run / name).read_text()) for name in ("record.1.json", "record.json"))
    assert (world.run / "record.1.json").read_text() == before["record.json"]
    assert "accepted" not in kept and len(now["accepted"]) == 1
    if change in ("data", "pictures"):
        assert (world.run / "data.1.json").read_text() == before["data.json"] != (world.run / "data.json").read_text()


def test_several_changes_at_once(world):
    one_letter(world)
    reward_code(world)
    with pytest.raises(UserError, match=r"prompts.jsonl.*; .*mine.py has.*accept_changes=\[data, rewards\]"):
        world.open("resume=auto")
    world.open("resume=auto", "accept_changes=[data,rewards]")


def test_a_checkpoint_elsewhere_is_compared_with_its_own_record(world):
    """A branch in another output, whatever became of the first run's folder."""
    world.open("resume=auto")
    (world.run / "record.json").unlink()
    branch = ("resume=" + str(world.run / "checkpoint-1"), f"output={world.folder}/branch")
    world.open(*branch)
    weights("model")(world)
    with pytest.raises(UserError, match="holds other weights"):
        world.open(*branch, "overwrite=false")


def test_a_checkpoint_of_an_earlier_version_is_compared_with_what_it_knows(world):
    """Without copies in the checkpoint, digests of pictures and samples of weights."""
    data, record = (json.loads((world.run / name).read_text()) for name in ("data.json", "record.json"))
    shutil.rmtree(world.run / "checkpoint-1")
    for source in data["train"]["sources"]:
        del source["pictures_sha256"]
    for file in record["checkpoint"]["weights"].values():
        del file["sampled"]
    del record["score_models"]
    (world.run / "data.json").write_text(json.dumps(data))
    (world.run / "record.json").write_text(json.dumps(record))
    folder = folders.begin(world.run, 1)
    shutil.copyfile(world.run / "recipe.yaml", folder / "recipe.yaml")
    manifest.write(folder, 1, 1, True)
    folders.commit(world.run, folder)
    one_picture(world)
    weights("model")(world)
    world.open("resume=auto")
    reward_code(world)
    with pytest.raises(UserError, match="mine.py has another content"):
        world.open("resume=auto")


def test_a_model_of_the_hub_is_its_commit():
    """Its weights may have been fetched after the record was made."""

    def changed(commit, weights):
        now = {"path": "o/m", "commit": commit, "files": {}, "weights": weights}
        return comparing.changes(
            {"checkpoint": {"path": "o/m", "commit": "a1", "files": {}, "weights": {}}}, {"checkpoint": now}
        )

    assert changed("a1", {"model.safetensors": {"bytes": 1}}) == {}
    assert changed("b2", {}) == {"model": ["model.path (o/m): commit a1 before, b2 now"]}


def test_accepting_without_a_resume_is_refused(world):
    with pytest.raises(RecipeError, match="accept_changes is read where a run is resumed"):
        world.open("accept_changes=[data]")


def test_pictures_are_told_apart(tmp_path):
    """Small ones by every byte, large ones by length and places; each counts once, and in its order."""
    large = bytearray(PIECE * (PIECES + 9))
    names = {"a": b"1" * 5000, "b": b"1" * 4999 + b"2", "c": bytes(large), "d": bytes(large) + b"0"}
    large[len(large) // 2] = 1
    large[-1] = 1
    names["e"] = bytes(large)
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in names]
    digests = [of_pictures([path]) for path in paths]
    assert len(set(digests)) == len(digests)
    assert of_pictures([paths[0], paths[0], b"in the row"]) == digests[0] == of_pictures([paths[0] + "#raster"[:0]])
    assert of_pictures(paths[:2]) != of_pictures(paths[1::-1])
    (tmp_path / "a").unlink()
    assert of_pictures(paths[:1]) != digests[0]


def test_an_evaluation_does_not_mix_answers(tmp_path, tiny_model, demo_data):
    """Four questions answered, then the weights, a row or a picture change."""
    from evals import stage
    from evals.recipe import EvalRecipe

    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(demo_data, tmp_path / "data")
    argv = commands.evaluation(tmp_path / "model", tmp_path / "data", tmp_path / "run", "limit=2", "pictures=0")
    recipe = config.load(argv[0], EvalRecipe, argv[1:])

    class Answerer:
        loaded = False

        def answer(self, recipe, samples, halved=None):
            for number, sample in enumerate(samples):
                if number == self.stop:
                    raise KeyboardInterrupt
                yield sample, "<think>a</think><answer>1</answer>"

    asked = Answerer()
    asked.stop = 1
    with pytest.raises(KeyboardInterrupt):
        stage.run(recipe, asked=asked)
    asked.stop = None
    first = (tmp_path / "run/predictions.jsonl").read_text()
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "data", kept)
    picture = pictures(tmp_path / "data/test")[0]
    with Image.open(picture) as shown:
        shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    with pytest.raises(UserError, match=r"evaluation in .*/run was begun with others: data.eval.*pictures.*overwrite"):
        stage.run(recipe, asked=asked)
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(kept, tmp_path / "data")
    weights("model")(SimpleNamespace(folder=tmp_path))
    with pytest.raises(UserError, match=r"model.path.*holds other weights"):
        stage.run(recipe, asked=asked)
    assert (tmp_path / "run/predictions.jsonl").read_text() == first
    record = Path(tmp_path / "run/record.json").read_text()
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(tiny_model, tmp_path / "model")
    stage.run(recipe, asked=asked)
    assert (tmp_path / "run/predictions.jsonl").read_text().startswith(first)
    assert json.loads(record)["checkpoint"] == json.loads((tmp_path / "run/record.json").read_text())["checkpoint"]
