"""A submission of scenes whose objects are known → how good it is, as `launch/detect.py score` says it.

    SCORE/truth/*.txt     the objects of the scenes, in DOTA's form, from whatever format they were read
    SCORE/found/*.txt     the submission's files of those classes that some scene has an object of
    SCORE/table.md, metrics.json

A class without any true object has no average precision, so what was found of it counts nowhere; it is said.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from evals.merging.submission import file_name
from evals.scoring.detectors import command
from samples.tiles.scenes import Scene
from vlm.common.console import say
from vlm.common.files import replace

FOLDER = "score"


def judge(files: Path, task: int, scenes: Iterable[Scene], out: Path) -> None:
    """Print the numbers and write them to `out`. files: the folder of a submission's files of this task."""
    truth, found = out / "truth", out / "found"
    for folder in (truth, found):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    there: set[str] = set()
    for scene in scenes:
        replace(truth / f"{scene.name}.txt", "".join(f"{one.line}\n" for one in scene.objects or ()))
        there |= {file_name(task, one.label) for one in scene.objects or ()}
    if not there:
        say("not scored: no scene has an object")
        return
    for file in sorted(files.glob(f"Task{task}_*.txt")):
        if file.name in there:
            shutil.copyfile(file, found / file.name)
        elif file.stat().st_size:
            say(f"note: {file.name} is not scored: no scene has an object of that class")
    command.run(argparse.Namespace(submission=found, truth=truth, choose_on=None, theta=0.0, out=out))
