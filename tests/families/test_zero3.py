"""Two processes under ZeRO-3, one of which has a row of text alone: each family's passes, and what is saved of it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.support.families import KINDS
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, two_processes
from tests.support.tiny_checkpoints import section
from vlm import loading
from vlm.families import FAMILIES

pytestmark = pytest.mark.slow

EVERY = [kind for kind in KINDS if kind in FAMILIES]
SHARDED = ["qwen3_vl", "llava", "internvl"]
"""Each takes some seconds here; Qwen2-VL goes through whole runs in tests/stage."""


@pytest.fixture(scope="module")
def found(family_checkpoints, tmp_path_factory):
    return gone_through(SHARDED, family_checkpoints, tmp_path_factory.mktemp("zero3"))


def gone_through(kinds, family_checkpoints, folder):
    """The folder of what was saved, and what was printed of each pass."""
    kinds = {kind: family_checkpoints(kind) for kind in kinds}
    script = ROOT / "tests/families/passes.py"
    said = forked.run([*two_processes(), script, folder, json.dumps(kinds)], cwd=folder).stdout
    return folder, [json.loads(line) for line in said.splitlines() if line.startswith('{"kind"')]


def test_losses_and_gradients_are_those_of_whole_weights(found):
    """A blank picture stands in for the one that a process lacks: in LLaVA and InternVL of 16 and 4 placeholders."""
    check(found[1], SHARDED)


@pytest.mark.full
def test_of_every_family(family_checkpoints, tmp_path):
    check(gone_through(EVERY, family_checkpoints, tmp_path)[1], EVERY)


def check(lines, kinds):
    counts = Counter(line["kind"] for line in lines)
    assert counts == {kind: 2 if FAMILIES[kind].unshared else 3 for kind in kinds}
    for line in lines:
        assert line["off"] < 1e-6 and line["largest"] > 1 and not line["idle"], line
        assert line["apart"] < 1e-5 * max(1, line["largest"]), line


@pytest.mark.parametrize("kind", SHARDED)
def test_what_is_saved_is_what_was_loaded(found, family_checkpoints, kind):
    saved, start = (loading.load_model(section(path)) for path in (found[0] / kind, family_checkpoints(kind)))
    expected = start.state_dict()
    assert saved.state_dict().keys() == expected.keys()
    assert [name for name, value in saved.state_dict().items() if not value.equal(expected[name])] == []
    head = saved.get_output_embeddings().weight is saved.get_input_embeddings().weight
    assert head == loading.raw_config(str(found[0] / kind))["tie_word_embeddings"] == saved.config.tie_word_embeddings
