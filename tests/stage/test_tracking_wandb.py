"""A table and an alert in a real run of wandb, offline, read back; whole trainings are in test_processes.py and
test_launch.py."""

import json

import pytest
from PIL import Image

from stage.runs import Run
from stage.tracking import alerts
from stage.tracking.alerts import Alert
from stage.tracking.pictures import small
from stage.tracking.samples import Samples
from stage.tracking.section import SampleSection
from stage.tracking.table import Asked, Batch, Reading, row
from tests.support.runs import wandb_files

BATCH = Batch(step=21, covers=1, last=100, group=2)


def scene(name: str, read: str) -> Asked:
    """A picture of 400 × 200 pixels with one true box."""
    truth = {"answer": None, "boxes": [[100.0, 50.0, 200.0, 150.0]], "quads": None, "size": (400, 200)}
    columns = {"task": "grounding", "source": "s", "id": name, "resized": None, **truth}
    return Asked(int(read), columns, [small(Image.new("RGB", (400, 200), "navy"), 5000)])


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A table of two rows and an alert, logged by our own functions to a run of wandb without an account."""
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("wandb")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DATA_DIR", str(folder / "wandb"))
        patch.setenv("WANDB_SILENT", "true")
        wandb.init(project="p", dir=folder)
        samples = Samples(Run(folder), SampleSection(), Reading(), ["wandb"])
        # per mille of 400 × 200: the answer is 100, 50, 200, 100 in pixels, the upper half of the truth
        texts = ("Where?", "<think>Blue.</think><answer>(250,250),(500,500)</answer>"), ("Where?", "nowhere")
        found = [scene("a", "0"), scene("a", "1")]
        rewards = {"gated": 0.65, "length": None}, {"gated": float("nan"), "length": 0.25}
        samples.write(
            [row(f, BATCH, samples.reading, t, r, 0.5) for f, t, r in zip(found, texts, rewards, strict=True)], found
        )
        alerts.tell("wandb", Alert(21, "kl", 20, "The policy is far", "Since step 20 …"))
        wandb.finish()
    return folder, wandb_files.read(folder)


def test_a_table_holds_what_was_asked_answered_and_paid(offline):
    _, found = offline
    (table,) = found.tables
    assert [cell["advantage"] for cell in table] == [0.5, 0.5]
    first, second = table
    assert (first["step"], first["id"], first["prompt"]) == (21, "a", "Where?")
    assert (first["trace"], first["answer"], first["truth"]) == ("Blue.", "(250,250),(500,500)", "100, 50, 200, 150")
    assert (second["trace"], second["answer"], second["completion"]) == (None, None, "nowhere")
    assert (first["gated"], first["length"], second["gated"], second["length"]) == (0.65, None, None, 0.25)
    logged = [entry for entry in found.history if "completions.nrows" in entry]
    assert [entry["train/global_step"] for entry in logged] == [21]


def test_boxes_lie_in_pixels_of_the_picture_that_is_sent(offline):
    """400 × 200 reduced to at most 5000 pixels is 100 × 50: a quarter. IoU: half of the true box is covered."""
    folder, found = offline
    (table,) = found.tables
    first, second = (cell["image"] for cell in table)
    for picture in (first, second):
        assert (picture["_type"], picture["width"], picture["height"]) == ("image-file", 100, 50)
        with Image.open(found.files[picture["path"]]) as sent:
            assert sent.size == (100, 50) and sent.getpixel((0, 0))[2] > 120
    assert first["boxes"].keys() == {"truth", "answer"} and second["boxes"].keys() == {"truth"}
    (truth,), (answer,) = first["boxes"]["truth"], first["boxes"]["answer"]
    assert truth["position"] == {"minX": 25, "minY": 12, "maxX": 50, "maxY": 38}  # 12.5 and 37.5, to the even number
    assert answer["position"] == {"minX": 25, "minY": 12, "maxX": 50, "maxY": 25}
    assert {truth["domain"], answer["domain"]} == {"pixel"} and answer["scores"] == {"iou": 0.5}
    classes = json.loads(found.files[first["classes"]["path"]].read_text())["class_set"]
    assert {entry["id"]: entry["name"] for entry in classes} == {0: "truth", 1: "answer"}
    assert (truth["class_id"], answer["class_id"]) == (0, 1)


def test_an_alert_is_there(offline):
    _, found = offline
    assert [(a.title, a.text, a.level) for a in found.alerts] == [("The policy is far", "Since step 20 …", "WARN")]
