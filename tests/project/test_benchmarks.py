"""The benchmarks run, write what they measured, and measure the same thing twice; the arithmetic of the ideal."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLForConditionalGeneration

from benchmarks import report
from benchmarks.support import common, worlds
from tests.project.test_layering import ROOT

SMALL = ["--prompt", "40", "--visual", "4", "--answer", "3", "--group", "2", "--prompts", "2", "--repeats", "1"]
LEAN = ["--one-model", "--rollout", "none", "--rewards", "rule", "--optimizer", "none", "--checkpointing"]
RUNS = {
    "rollout": ([], {("prefill", "shared"), ("rollout", "shared")}),
    "score": ([], {("score", way) for way in ("pictures", "shared")}),
    "grpo_step": (
        [],
        {(phase, "ours") for phase in ("rollout", "rewards", "reference", "update", "reference + update", "total")},
    ),
    "grpo_step lean": (LEAN, {(phase, "ours") for phase in ("reference", "update", "reference + update", "total")}),
}


def module(name: str):
    return importlib.import_module(f"benchmarks.{name.split()[0]}")


@pytest.mark.parametrize("name", RUNS)
def test_it_writes_its_table_and_both_ways_agree(name, tmp_path):
    options, expected = RUNS[name]
    module(name).main([*SMALL, *options, "--no-memory", "--out", str(tmp_path), "--name", "made"])
    found = json.loads((tmp_path / "made.json").read_text())
    assert {(row["phase"], row["way"]) for row in found["rows"]} == expected
    for row in found["rows"]:
        assert row["differences"] and max(row["differences"].values()) < 1e-4
        assert (row["shape"], row["R"], row["G"], row["U"]) == ("tiny", 3, 2, 2)
        base = row["base"]
        assert row["wall"][base]["median"] > 0 and row["cpu"][base]["n"] == 1
        assert row["flops"][row["way"]] < row["flops"][base]
        if row["phase"] in ("prefill", "rollout", "reference", "update"):
            assert row["flops"]["realised"] == pytest.approx(1, abs=0.05)
    table = (tmp_path / "made.md").read_text()
    assert all(f"| {phase} | {way} |" in table for phase, way in expected)
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


def test_processes_of_their_own_start_in_the_repository():
    assert ROOT == common.ROOT


def test_one_way_alone_tells_its_peak(tmp_path, capsys):
    """What a process of its own is asked for memory; it has no other way to build."""
    module("rollout").main([*SMALL, "--only", "shared", "--out", str(tmp_path)])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < found["before"] <= found["peak"]


def test_the_arithmetic_is_the_counters(tmp_path):
    """One plain forward pass of the model on two prompts, counted and computed."""
    options = common.parser("").parse_args([*SMALL, "--out", str(tmp_path)])
    world = worlds.World(common.cases(options)[0])
    model = worlds.build(Qwen2VLForConditionalGeneration, world.config, options)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=common.UNCOUNTED) as counter:
        model(**world.encoded())
    cost = worlds.Ideal(world.config, world.visual)
    expected = 2 * (cost.picture + cost.tokens(world.length, world.length, heads=world.length))
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_outputs_that_differ_stop_it():
    with pytest.raises(SystemExit, match="differ"):
        common.differ("case", {"Δ": 1e-3}, "float32")
    with pytest.raises(SystemExit):
        common.differ("case", {"Δ": float("nan")}, "float32")
    assert common.differ("case", {"Δ": 1e-3}, "bfloat16")


def test_ratios_are_of_medians_and_their_spread_is_that_of_pairs():
    clocks = {"plain": [], "ours": []}
    for name, seconds in (("plain", (8.0, 4.0, 6.0)), ("ours", (2.0, 2.0, 1.0))):
        for value in seconds:
            clock = common.Clock()
            clock.wall["total"] = clock.cpu["total"] = value
            clocks[name].append(clock)
    counts = {name: common.Clock() for name in clocks}
    counts["plain"].flops["total"], counts["ours"].flops["total"] = 100, 40
    needs = {"total": {"plain": 120.0, "ours": 30.0}}
    (row,) = common.rows({}, clocks, counts, needs, ("total",))
    assert row["ratio"]["cpu"] == {"of_medians": 3.0, "min": 2.0, "max": 6.0}
    assert row["flops"]["ratio"] == 2.5
    assert row["flops"]["realised"] == pytest.approx(60 / 75)  # 100 → 25 would be the ideal
    assert row["needed_per_s"] == {"plain": 20.0, "ours": 15.0}  # of 6 and 2 seconds
    assert [report.utilisation(row, way, 50.0) for way in ("plain", "ours")] == ["40.0%", "30.0%"]
    assert report.utilisation(row, "ours", None) == ""  # a card whose peak is not known


def asked(script: str, folder, **more: str) -> list[list[str]]:
    """Module and options of each part of a script, told to a python that does nothing."""
    fake = folder / "python"
    fake.write_text('#!/bin/sh\necho "$@" >> "$0.log"\n')
    fake.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(fake), "OUT": str(folder / "out"), **more}
    subprocess.run([str(ROOT / "benchmarks" / script)], env=environment, check=True, capture_output=True)
    lines = [line.split() for line in (folder / "python.log").read_text().splitlines()]
    return [words[1:] for words in lines]  # behind -m


@pytest.mark.parametrize("script", ["run.sh", "gpu.sh"])
def test_the_scripts_are_bash_and_name_known_options(script, tmp_path):
    """With a python that only parses the options."""
    assert (ROOT / "benchmarks" / script).stat().st_mode & 0o111
    parts = asked(script, tmp_path)
    assert len(parts) >= 4
    for name, *argv in parts:
        found = importlib.import_module(name)
        options = found.parse(argv) if name.endswith(("grpo_step", "grouper")) else common.parser("").parse_args(argv)
        assert options.shape in ("tiny", "2b", "7b") and options.prompt and not options.only


def rehearsed(folder) -> None:
    """Every part of gpu.sh has left its files, in bfloat16 and with flash-attn's stand-in."""
    text = (ROOT / "benchmarks/gpu.sh").read_text()
    parts = re.findall(r"^measure \d+ (\w+)", text, re.MULTILINE)
    assert len(parts) == 4
    for part in parts:
        found = json.loads((folder / f"{part}.json").read_text())
        assert found["options"]["dtype"] == "bfloat16" and all(row["shape"] == "tiny" for row in found["rows"])
        assert (folder / f"{part}.md").read_text() and (folder / f"{part}.png").read_bytes()
        assert "TFLOP/s" in report.table(found["rows"], "cuda")  # what a GPU's table has besides


def test_gpu_sh_is_rehearsed_without_a_gpu(tmp_path, flash_attn):
    """The options that GPU_REHEARSAL=1 gives, each part in this process."""
    for module, name, *argv in asked("gpu.sh", tmp_path, GPU_REHEARSAL="1"):
        assert module == "tests.support.flash.standing_in"
        flash_attn.calls.clear()
        importlib.import_module(name).main(argv)
        assert flash_attn.calls["torch.bfloat16"] > 0
    rehearsed(tmp_path / "out/rehearsal")


@pytest.mark.full
def test_the_rehearsal_of_gpu_sh_itself(tmp_path):
    environment = {**os.environ, "GPU_REHEARSAL": "1", "PYTHON": sys.executable, "OUT": str(tmp_path)}
    subprocess.run([str(ROOT / "benchmarks/gpu.sh")], env=environment, check=True)
    rehearsed(tmp_path / "rehearsal")
