"""The benchmark with `prefix_grouper` as a third way: the adapter against TRL's plain path, and what is left without.

The package belongs to the extra `dev`: the tests need it, the project does not.
"""

import json

import pytest
import torch

from benchmarks import grouped, grouper
from tests.support.groups import batch, gradients, plain, policy

SMALL = ["--prompt", "40", "--visual", "4", "--answer", "3", "--group", "2", "--repeats", "1", "--no-memory"]

GROUPS = {
    "two pictures": [(5, (0, 1), (3, 1, 4))],
    "unequal prompts and sizes, one without a picture": [(4, (2,), (2, 5)), (9, (), (4, 1, 3)), (6, (0,), (1,))],
}


def measured(tmp_path):
    grouper.main([*SMALL, "--out", str(tmp_path)])
    return json.loads((tmp_path / "grouper.json").read_text()), (tmp_path / "grouper.md").read_text()


def test_without_the_package_a_note_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(grouped, "version", lambda: None)
    found, table = measured(tmp_path)
    assert {(row["phase"], row["way"], row["base"]) for row in found["rows"]} == {
        (phase, "ours", "stock") for phase in ("reference", "update", "reference + update")
    }
    assert "prefix_grouper (PyPI) is not installed" in table and "pip install prefix_grouper" in table


def test_three_ways_agree_and_are_measured(tmp_path):
    found, table = measured(tmp_path)
    ways = {(row["way"], row["base"]) for row in found["rows"]}
    assert ways == {("ours", "stock"), ("prefix_grouper", "stock"), ("ours", "prefix_grouper")}
    for row in found["rows"]:
        assert len(row["differences"]) == 3 and max(row["differences"].values()) < 1e-5
        assert row["cpu"][row["way"]]["n"] == 1
        assert 0 < row["flops"][row["way"]] < row["flops"][row["base"]]
    assert f"prefix_grouper (PyPI) {grouped.version()}" in table


def test_the_version_is_that_of_what_can_be_imported():
    import prefix_grouper  # make test-oldest has none, and collects this file

    assert grouped.version() == prefix_grouper.__version__


@pytest.mark.parametrize("wrong", [["--prompts", "2"], ["--rollout", "sampled"], ["--attention", "auto"]])
def test_what_it_does_not_measure_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        grouper.parse([*SMALL, *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_masks_by_hand():
    """Two suffixes of 2 and 1 tokens on a prefix of 2, padded, and on a padded prefix."""
    assert grouped.causal(torch.tensor([[True, True]]), 2) is None
    whole = grouped.causal(torch.ones(2, 4, dtype=torch.bool), 2)
    assert whole.int().tolist() == [[[[1, 1, 1, 0], [1, 1, 1, 1]]]]
    keys = torch.tensor([[True, True, True, True], [False, True, True, False]])
    expected = [[[[1, 1, 1, 0], [1, 1, 1, 1]]], [[[0, 1, 1, 0], [0, 1, 1, 0]]]]
    assert grouped.causal(keys, 2).int().tolist() == expected
    assert grouped.causal(torch.tensor([[False, True]]), 2).int().tolist() == [[[[0, 0], [0, 1]]]]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", GROUPS)
def test_log_probabilities_and_gradients_are_those_of_trl(tiny_model, name, checkpointing):
    stock, model = policy(tiny_model, share=False), policy(tiny_model, share=False)
    grouped.enable(model)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    given = batch(model.config, GROUPS[name])
    sizes = [len(lengths) for _, _, lengths in GROUPS[name]]
    first = [sum(sizes[:n]) for n in range(len(sizes))]
    cut = given.ids.shape[1] - given.keep
    parts = [given.ids[first, :cut], given.mask[first, :cut], given.ids[:, cut:], given.mask[:, cut:]]
    images = {
        "pixel_values": None,
        "image_grid_thw": None,
        **given.stored,
        "num_images": [given.rows[n] for n in first],
    }
    got = grouped.log_probabilities(model, *parts, sizes, **images)
    expected = plain(stock, given)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == given.there.shape and (a - b)[given.there].abs().max() < 1e-5
    assert got[0][given.there].abs().max() > 0.1 and not got[0][~given.there].any()
    a, b = gradients(model, *got, given.there), gradients(stock, *expected, given.there)
    assert a.keys() == b.keys()
    floor = 1e-6 * max(value.norm() for value in b.values())
    worst = max(((a[key] - value).norm() / value.norm().clamp(min=floor)).item() for key, value in b.items())
    assert worst < 1e-5
