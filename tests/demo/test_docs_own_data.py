"""docs/own-data.md, run: rows, recipes and commands are taken from the page, and each command in turn ends well.

What differs from the page is in SMALL: a tiny model, few steps, short completions. `accelerate launch` with one process
starts the launcher and no more, as tests/project/test_launch.py does for real; here launchers run in this process,
which imports once.
"""

from __future__ import annotations

import io
import json
import logging
import re
import runpy
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import samples
from demo.world.render import render
from demo.world.scene import scene
from tests.support.processes.commands import ROOT

PAGE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
FILES = {
    name: text
    for name, text in re.findall(
        r"^`(mine/[\w.]+)`(?:[^\n]+\n)+\n(?:[^\n`]+\n)*```(?:json|yaml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
    )
}
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
MISTAKES = re.findall(r"^\| `(launch/[^`]+)`[^|]* \| `([^|]+)` \| [^|]+ \|$", PAGE, re.MULTILINE)
SMALL = {
    "model: {path: Qwen/Qwen2-VL-2B-Instruct}": f"model: {{path: {ROOT}/demo/base, dtype: float32}}",
    "model.path=Qwen/Qwen2-VL-2B-Instruct": f"model.path={ROOT}/demo/base",
    "min_pixels: 262144, max_pixels: 1048576": "min_pixels: 12544, max_pixels: 12544",
    "gradient_accumulation_steps: 8 ": "gradient_accumulation_steps: 2 ",
    "gradient_accumulation_steps: 4 ": "gradient_accumulation_steps: 2 ",
    "num_train_epochs: 2": "max_steps: 2",
    "learning_rate: 1.0e-4": "learning_rate: 0.1",  # two steps of LoRA that can be seen in the merged weights
    "warmup_steps: 10": "warmup_steps: 0",
    "max_completion_length: 512": "max_completion_length: 12",
    "max_new_tokens: 512": "max_new_tokens: 12",
}
"""The page's words → the test's."""
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
OURS = ("vlm", "rewards", "sft", "rl", "evals")
"""Packages whose log levels a launcher sets."""


def small(text: str) -> str:
    for page, test in SMALL.items():
        text = text.replace(page, test)
    return text


def lay_out(folder: Path, change=lambda text: text) -> Path:
    """The page's folder below a stand-in for the checkout's root, with scenes of the demo as pictures."""
    (folder / "mine/images").mkdir(parents=True)
    for number, name in enumerate(sorted(set(re.findall(r"images/\d+\.jpg", PAGE)))):
        render(scene(number)).resize((640, 480)).save(folder / "mine" / name)
    for name, text in FILES.items():
        (folder / name).write_text(change(text), encoding="utf-8")
    (folder / "launch").symlink_to(ROOT / "launch")
    return folder


@dataclass
class Ended:
    code: int
    out: str
    err: str


def run(command: str, folder: Path, expect: int = 0) -> Ended:
    """A command of the page, in the folder; fails with all it said where the exit code is another."""
    words = shlex.split(command.removeprefix("accelerate launch ").removeprefix("python "))
    out, err, loggers = io.StringIO(), io.StringIO(), [logging.getLogger(name) for name in OURS]
    levels, path = [logger.level for logger in loggers], list(sys.path)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "100")
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            if words[0] == "-m":
                patch.setattr(sys, "argv", words[1:])
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
    sys.path[:] = path
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    found = Ended(ended.value.code or 0, out.getvalue(), err.getvalue())
    assert found.code == expect, f"{command}: exit code {found.code}\n{found.out}\n{found.err}"
    return found


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder after all commands, and what each of them said."""
    folder = lay_out(tmp_path_factory.mktemp("own"), small)
    return folder, {command: run(small(command), folder).out for command in COMMANDS}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_page_has_what_the_test_takes():
    assert list(FILES) == [
        "mine/train.jsonl", "mine/test.jsonl", "mine/traces.jsonl",
        "mine/common.yaml", "mine/sft.yaml", "mine/grpo.yaml", "mine/eval.yaml",
    ]  # fmt: skip
    starts = [re.sub(r"^(accelerate launch|python) ", "", command).split(" ")[0] for command in COMMANDS]
    assert starts == [
        "launch/data.py", "launch/data.py", "launch/sft.py", "launch/sft.py", "-m", "launch/eval.py", "launch/eval.py",
        "launch/grpo.py", "launch/grpo.py", "launch/eval.py", "launch/compare.py",
    ]  # fmt: skip
    assert len(MISTAKES) == 12 and "eleven commands" in PAGE
    whole = "".join([*FILES.values(), *COMMANDS])
    assert all(words in whole for words in SMALL)


def test_the_box_in_the_text_is_the_box_in_the_field(tmp_path):
    """64 of 640 pixels are 100 per mille, 240 of 480 are 500."""
    folder = lay_out(tmp_path)
    (traced,) = (sample for sample in samples.read(folder / "mine/traces.jsonl") if sample.task == "grounding")
    assert traced.boxes == [[64, 48, 320, 240]] and traced.size == (640, 480)
    assert "<answer><|box_start|>(100,100),(500,500)<|box_end|></answer>" in traced.messages[-1]["content"]


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_the_plan_of_the_page_as_it_is_fits_the_gpu(stage, tmp_path):
    """With no word changed, before anything has run: neither the model nor what step 4 writes is here."""
    said = run(f"accelerate launch launch/{stage}.py mine/{stage}.yaml --dry-run", lay_out(tmp_path)).out
    assert "2,208,985,600" in said and "published shape of Qwen2-VL-2B" in " ".join(said.split())
    assert "fits: the peak of" in said and "1×A100-80G" in said


def test_the_plan_of_7b_with_adapters_fits_the_gpu(tmp_path):
    words = "model.path=Qwen/Qwen2-VL-7B-Instruct 'model.lora={r: 64, alpha: 128}'"
    said = run(f"python launch/grpo.py mine/grpo.yaml {words} --dry-run", lay_out(tmp_path)).out
    assert "published shape of Qwen2-VL-7B" in " ".join(said.split()) and "fits: the peak of" in said


def test_the_data_is_fit(road):
    folder, said = road
    assert all("fit: no faults" in said[command] for command in COMMANDS[:2])
    for stage, pictures in (("sft", 7), ("grpo", 6)):
        found = json.loads((folder / f"runs/mine/{stage}/doctor/report.json").read_text())
        assert found["fit"] and found["pictures"]["different"] == pictures
        assert [source["fit"] for source in found["sources"]] == [4, 4]
        assert (folder / f"runs/mine/{stage}/doctor/data.png").is_file()
        assert (folder / f"runs/mine/{stage}/doctor/faults.jsonl").read_text() == ""


def test_the_cold_start_trains_an_adapter(road):
    folder, said = road
    assert "samples per step" in said[COMMANDS[2]] and "fits: " in said[COMMANDS[2]]
    logged = [row for row in rows(folder / "runs/mine/sft/metrics.jsonl") if "mean_token_accuracy" in row]
    assert [row["step"] for row in logged] == [1, 2] and all("loss" in row for row in logged)
    assert (folder / "runs/mine/sft/curves.png").is_file()
    assert (folder / "runs/mine/sft/final/adapter_config.json").is_file()
    assert not (folder / "runs/mine/sft/final/config.json").exists()


def test_the_merged_model_is_the_base_plus_the_adapter(road):
    """One linear layer, W + α/r · B·A, by hand; α/r = 128/64."""
    import torch
    from safetensors.torch import load_file

    folder, _ = road
    layer = "layers.0.self_attn.q_proj"

    def tensor(path: Path, ending: str) -> torch.Tensor:
        (found,) = [value for key, value in load_file(path).items() if key.endswith(f"{layer}.{ending}")]
        return found.float()

    adapter = folder / "runs/mine/sft/final/adapter_model.safetensors"
    a, b = (tensor(adapter, f"lora_{letter}.weight") for letter in "AB")
    assert len(a) == 64 and (b @ a).abs().max() > 0.01
    start = tensor(ROOT / "demo/base/model.safetensors", "weight")
    merged = tensor(folder / "runs/Qwen2-VL-2B-mine/model.safetensors", "weight")
    torch.testing.assert_close(merged, start + 2 * b @ a, rtol=2**-7, atol=1e-3)


def test_grpo_ran_with_the_rewards_of_the_page(road):
    folder, said = road
    assert "prompts per step" in said[COMMANDS[7]]
    run_folder = folder / "runs/mine/grpo"
    logged = [row for row in rows(run_folder / "metrics.jsonl") if "reward" in row]
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)?)`", "".join(re.findall(r"^\|.*\| `[a-z].*\|$", PAGE, re.MULTILINE)))
    assert {"reward", "reward_raw/format", "frac_reward_zero_std", "completions/clipped_ratio"} <= set(named)
    seen = set().union(*logged)
    assert {"reward_raw/grounding", "reward_raw/vqa", "reward_raw/vqa/count", "reward_raw/choice"} <= seen
    assert {"reward", "reward_raw/format", "frac_reward_zero_std", "completions/clipped_ratio"} <= seen
    assert [row["step"] for row in logged] == [1, 2] and all(0 <= row["reward"] <= 1 for row in logged)
    assert len(list((run_folder / "completions").glob("*.parquet"))) == 2
    for name in ("samples.jsonl", "curves.png", "final/model.safetensors"):
        assert (run_folder / name).is_file()


def test_evaluations_and_their_comparison(road):
    folder, said = road
    for name in ("base", "sft", "grpo"):
        answered = rows(folder / f"runs/mine/eval/{name}/predictions.jsonl")
        assert [(row["source"], row["id"], row["task"]) for row in answered] == [
            ("test", "1", "grounding"), ("test", "2", "vqa"), ("test", "3", "vqa"), ("test", "4", "choice"),
        ]  # fmt: skip
        assert (folder / f"runs/mine/eval/{name}/pictures.png").is_file()
    first = (folder / "runs/mine/table.md").read_text().splitlines()[0]
    assert re.findall(r"\w+", first)[-3:] == ["base", "sft", "grpo"]
    assert "sft → grpo: vqa/exact" in said[COMMANDS[-1]]
    metrics = json.loads((folder / "runs/mine/eval/sft/metrics.json").read_text())
    assert "format" in json.dumps(metrics)


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[f"{n}" for n in range(len(MISTAKES))])
def test_mistakes_give_the_errors_of_the_page(command, message, road):
    import torch

    if "no GPU here computes" in message and torch.cuda.is_available():
        pytest.skip("with a GPU it is no mistake")
    folder, _ = road
    found = run(small(command), folder, expect=1 if "data.py" in command else 2)
    said = " ".join((found.out + found.err).split())
    assert message in said and not (folder / "runs/x/metrics.jsonl").exists()
    if "data.py" not in command:
        assert [line for line in found.err.splitlines() if line.startswith("error: ")]
