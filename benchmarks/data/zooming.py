"""A question with one crop about a picture too large to be decoded whole: seconds beside the model's, and memory.

    python -m benchmarks.data.zooming --folder /tmp/pictures      # the TIFFs of benchmarks.data.rasters

The demo's tiny model is asked as an evaluation asks (`evals.generate`); what it says first is exchanged for a call of
`image_zoom_in`, so the road is the real one: the whole picture at 1,048,576 pixels, the first turn, the region from the
original, the second turn. A first question about a small picture brings in all that is imported or allocated once.
Each line is a process. `first` keeps the reduced picture for `again`, in a folder that ends with the run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

from benchmarks.data.rasters import ROOT, files, peak

SIDE = 2000
"""Of the region, in pixels; a third of a picture that is smaller than three of them."""


def region(width: float, height: float) -> list[float]:
    """Near the lower right corner."""
    side = min(SIDE, width / 3, height / 3)
    x, y = 0.98 * width, 0.98 * height
    return [x - side, y - side, x, y]


def measured(path: str) -> dict[str, float]:
    """One question in this process: seconds in all and of the model's passes, MiB above those of the first question."""
    from PIL import Image

    from evals import generate
    from evals.asking.turns import Said
    from samples import Sample
    from stage.recipe.asking import GenerationSection
    from vlm.loading import load_model, load_processor
    from vlm.pictures import rasters
    from vlm.sections import ImageSection, ModelSection, PromptSection, ToolSection, TurnSection
    from vlm.tools.chains import called
    from vlm.tools.toolbox import Toolbox

    rasters.library()
    model = load_model(ModelSection(path="demo/base", dtype="float32", attention="sdpa"), "cpu").eval()
    processor = load_processor("demo/base", ImageSection())
    toolbox = Toolbox.of([ToolSection(use="zoom")], TurnSection(limit=1), processor.sight)
    prompt, how = PromptSection(style="direct", notation="qwen2_vl"), GenerationSection(max_new_tokens=64, batch_size=1)
    passes: list[float] = []

    class Calling(generate.Speaking):
        """Its first turn calls the zoom, whatever the model said."""

        def __call__(self, places):
            said = super().__call__(places)
            (talk,) = self.talks
            if talk.dialogue.turns:
                return said
            box = region(*talk.dialogue.context.views[0].size)
            return [Said(called(box, talk.dialogue.context, toolbox.zoom)[0], said[0].tokens // 2, True)]

    model.register_forward_pre_hook(lambda *_: passes.append(-time.perf_counter()))
    model.register_forward_hook(lambda *_: passes.append(time.perf_counter()))

    def ask(image: str | bytes) -> dict[str, float]:
        sample = Sample([image], [{"role": "user", "content": "Which mark is on the red pad?"}], task="vqa", answer="-")
        talks = generate.Talks(prompt, how.max_new_tokens, processor.sight, toolbox)
        passes.clear()
        began = time.perf_counter()
        with mock.patch.object(generate, "Speaking", Calling):
            ((_, answer),) = generate.complete(model, processor, [sample], prompt, how, talks=talks)
        whole = time.perf_counter() - began
        assert [crop["image"] for crop in answer.crops] == [0] and not answer.faults, answer.faults
        return {"wall": whole, "model": sum(passes)}

    small = io.BytesIO()
    Image.effect_noise((3000, 3000), 40).convert("RGB").save(small, "png", compress_level=1)
    ask(small.getvalue())
    before = peak()
    return ask(path) | {"MiB": (peak() - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/rasters"))
    parser.add_argument("--side", type=int, default=26176, help="width of the TIFFs; their height is 0.949 of it")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.one:
        from vlm.pictures import images
        from vlm.sections import PictureSection

        images.use(PictureSection(limit=2**31))
        print(json.dumps(measured(given.one)))
        return
    found = files(given.folder, given.side, round(given.side * 24832 / 26176), 3000)
    print("| file | MB | | s | beside the model | MiB |\n|---|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as kept:
        environment = os.environ | {"XDG_CACHE_HOME": kept}
        for path in (path for path in found if path.suffix == ".tif"):
            for case in ("first", "again"):
                command = [sys.executable, "-m", "benchmarks.data.zooming", "--one", str(path)]
                done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
                one = json.loads(done.stdout.splitlines()[-1])
                told = f"{one['wall']:.2f} | {one['wall'] - one['model']:.2f} | {one['MiB']:.0f}"
                print(f"| {path.name} | {path.stat().st_size / 1e6:.0f} | {case} | {told} |", flush=True)


if __name__ == "__main__":
    main()
