"""The benchmarks run, write what they measured, and measure the same thing twice; the arithmetic of the ideal."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLForConditionalGeneration

import rl.turns.conversing
from benchmarks import parity, report
from benchmarks.support import common, worlds
from benchmarks.support.summary import summary
from rl.sharing import packed
from rl.turns.rollout import Conversations
from tests.project.test_layering import ROOT
from tests.support.flash import gpu_checks
from vlm.prefix.continued import Session

SMALL = ["--prompt", "40", "--visual", "4", "--answer", "3", "--group", "2", "--prompts", "2", "--repeats", "1"]
LEAN = ["--one-model", "--rollout", "none", "--rewards", "rule", "--optimizer", "none", "--checkpointing"]
RUNS = {
    "rollout": ([], {(phase, way) for phase in ("prefill", "rollout") for way in ("copied", "shared")}),
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


def test_both_ways_agree_over_turns_with_a_crop(tmp_path):
    sizes = ["--prompt", "40", "--visual", "4", "--answer", "3", "--group", "2", "--crop", "4", "--repeats", "1"]
    module("turns").main([*sizes, "--no-memory", "--out", str(tmp_path), "--name", "made"])
    rows = {row["phase"]: row for row in json.loads((tmp_path / "made.json").read_text())["rows"]}
    assert set(rows) == {"rollout", "reference", "update", "total"}
    for row in rows.values():
        assert row["crop"] == 4 and max(row["differences"].values()) < 1e-4
        assert row["flops"]["realised"] == pytest.approx(1, abs=0.05)
    assert Session._until.__module__ == Session.__module__ and Conversations is rl.turns.conversing.Conversations


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


@pytest.mark.parametrize("script", ["run.sh", "gpu.sh"])
def test_the_scripts_are_bash_and_name_known_options(script, tmp_path):
    """With a python that only parses the options."""
    path = ROOT / "benchmarks" / script
    assert path.stat().st_mode & 0o111
    starts, _ = gpu_checks.asked(path, tmp_path, INSTALLED="vllm")
    assert len(starts) >= 4
    for name, *argv in starts:
        if name == "benchmarks.support.summary":
            continue
        parse = getattr(importlib.import_module(name), "parse", common.parser("").parse_args)
        options = parse(argv)
        assert options.shape in ("tiny", "2b", "7b") and options.prompt and not options.only


def test_gpu_sh_takes_nine_minutes_at_most():
    found = gpu_checks.limits()
    assert set(found) == {"parity_7b", "step_7b", "score_7b", "engine_2b"}
    assert sum(found.values()) <= 540


def test_a_check_whose_package_is_missing_costs_nothing(tmp_path):
    starts, printed = gpu_checks.asked(gpu_checks.SCRIPT, tmp_path)
    modules = [words[0] for words in starts]
    assert modules == [f"benchmarks.{name}" for name in ("parity", "grpo_step", "score", "support.summary")]
    assert "\nengine_2b: skipped, vllm is not installed\n" in printed


def test_a_check_that_fails_is_told_and_the_others_run(tmp_path):
    """A stale result of an earlier run is not taken for its own."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/parity_7b.json").write_text("{}")
    starts, printed = gpu_checks.asked(
        gpu_checks.SCRIPT, tmp_path, status=1, FAILS="benchmarks.parity", INSTALLED="vllm"
    )
    assert len(starts) == 5 and "parity_7b: FAILED with status 3\n" in printed
    lines = (tmp_path / "out/checks.tsv").read_text().splitlines()
    assert [line.split("\t")[3] for line in lines] == ["FAILED with status 3", "ok", "ok", "ok"]
    assert not (tmp_path / "out/parity_7b.json").exists()


def test_a_check_is_stopped_at_its_limit(tmp_path):
    """`timeout` is a stand-in whose time is always up."""
    (tmp_path / "timeout").write_text('#!/bin/sh\necho "$3 s"\nexit 124\n')
    (tmp_path / "timeout").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    starts, printed = gpu_checks.asked(gpu_checks.SCRIPT, tmp_path, "score_7b", status=1, PATH=path)
    assert [words[0] for words in starts] == ["benchmarks.support.summary"]
    limit = gpu_checks.limits()["score_7b"]
    assert f"\n{limit} s\nscore_7b: FAILED: its time was up\n" in printed


def test_the_summary_has_a_row_for_each_check(tmp_path):
    (tmp_path / "checks.tsv").write_text("a\t90\t12\tok\nb\t60\t0\tskipped, vllm is not installed\n")
    (tmp_path / "a.json").write_text(json.dumps({"figures": "total 3 → 2 s (1.5×)", "on": "NVIDIA H100; torch 2"}))
    assert summary(tmp_path).splitlines() == [
        "| check | s (at most) | ended | figures |",
        "| --- | --- | --- | --- |",
        "| a | 12 (90) | ok | total 3 → 2 s (1.5×) |",
        "| b | 0 (60) | skipped, vllm is not installed |  |",
        "",
        "- a: NVIDIA H100; torch 2",
    ]


@pytest.mark.parametrize("name", [name for name in gpu_checks.limits() if name != "engine_2b"])
def test_a_check_of_gpu_sh_is_rehearsed_without_a_gpu(name, tmp_path, flash_attn):
    """In bfloat16 and with flash-attn's stand-in. (tests/engine rehearses vLLM's.)"""
    found = gpu_checks.rehearse(name, tmp_path)
    assert flash_attn.calls["torch.bfloat16"] > 0
    assert found["options"]["dtype"] == "bfloat16" and "flash_attn" in found["machine"]["versions"] and found["figures"]
    if name != "parity_7b":
        assert all(row["shape"] == "tiny" for row in found["rows"])
        assert "MFU" in report.table(found["rows"], "cuda", 1e12)  # what a GPU's table has besides
        assert "MFU" in report.figures(found["rows"], 1e12)


@pytest.mark.full
def test_the_rehearsal_of_gpu_sh_itself(tmp_path):
    subprocess.run([gpu_checks.SCRIPT], env=gpu_checks.environment(sys.executable, tmp_path), check=True)
    lines = (tmp_path / "rehearsal/summary.md").read_text().splitlines()
    for name, line in zip(gpu_checks.limits(), lines[2:], strict=False):
        assert line.startswith(f"| {name} |") and (" | ok | " in line or "vllm is not installed" in line)


def test_parity_finds_a_position_that_is_off_by_one(tmp_path, monkeypatch):
    """The last but one token of each prompt a row of pixels lower, in the shared path alone."""
    right = packed.rope_positions

    def wrong(*given):
        found = right(*given)
        for places in found:
            places[1, -2] += 1
        return found

    monkeypatch.setattr(packed, "rope_positions", wrong)
    with pytest.raises(SystemExit, match="log-probabilities, gradient, gradient, worst parameter"):
        parity.main([*SMALL, "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "parity.json").read_text())["rows"]
    assert all(row["times"] > 4 for row in rows)  # not by a hair
    assert "| **" in (tmp_path / "parity.md").read_text()
