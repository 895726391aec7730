"""A score model that is split over two processes, in a run that trains under ZeRO-3, against a whole one in each."""

from __future__ import annotations

import json

import pytest

from rewards.score.model.score_model import ScoreModel
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, grpo, two_processes

TRAINING = {"per_device_train_batch_size": 2, "num_generations": 4, "max_steps": 3, "beta": 0.1}


@pytest.fixture(scope="module")
def found(tiny_model, family_checkpoints, demo_data, tmp_path_factory):
    """What the two processes wrote (tests/support/processes/compared.py)."""
    folder = tmp_path_factory.mktemp("sharded")
    model, other = folder / "model", folder / "other"
    ScoreModel.from_backbone(tiny_model, dtype="float32").save_pretrained(model)
    ScoreModel.from_backbone(family_checkpoints("qwen3_vl"), dtype="float32").save_pretrained(other)
    settings = [f"training.{key}={value}" for key, value in TRAINING.items()]
    plugin = ROOT / "tests/support/processes/compared.py"
    reward = f"{{use: {plugin}:Compared, options: {{model: {model}, other: {other}, folder: {folder}}}}}"
    argv = grpo(tiny_model, demo_data, folder / "run", f"data.train.0.path={demo_data}/grpo/captions.jsonl")
    argv += [*settings, f"rewards=[{reward}]", "sharding.zero=3"]
    done = forked.run(
        [*two_processes(), ROOT / "tests/support/processes/zero_cpu.py", *argv], cwd=folder, PYTHONPATH=str(ROOT)
    )
    assert done.stdout.count("engine: ZeRO-3 on 2 processes") == 2 * 5  # policy, reference, three score models
    return [json.loads((folder / f"process{rank}.json").read_text()) for rank in (0, 1)]


def close(expected):
    return pytest.approx(expected, abs=1e-5)


def test_each_process_holds_half(found):
    for process in found:
        assert process["stage"] == 3 and process["all"] > 2_000_000
        assert process["held"] == pytest.approx(process["all"] / 2, rel=1e-3)


def test_rewards_are_those_of_a_whole_model(found):
    """Through `gated`, in a run that trains, also where one process has no row of the task."""
    shares = [[call["tasks"].count("open_ended") for call in process["calls"]] for process in found]
    assert shares == [[2, 2, 0], [0, 2, 2]]
    scored = []
    for process in found:
        for call in process["calls"]:
            assert call["split"] == close(call["whole"])
            scored += [value for value in call["split"] if value is not None]
    assert len(scored) == 8 and max(scored) > 0.1 and len({round(value, 3) for value in scored}) > 4


def test_probes_of_the_main_process_are_scored_by_all(found):
    main, other = ([(call["whole_probes"], call["split_probes"]) for call in process["calls"]] for process in found)
    assert all(whole is not None and split == close(whole) for whole, split in main)
    assert other == [(None, None)] * 3


@pytest.mark.parametrize("case", ["mixed", "text only", "image in one", "nothing", "after"])
def test_scores_are_those_of_a_whole_model(found, case):
    """5 exchanges in one process (3 passes), 1 in the other; with pictures, without, and in one process alone."""
    for process, count in zip(found, {"nothing": (0, 0), "after": (1, 1)}.get(case, (5, 1)), strict=True):
        assert len(process[case]["split"]) == count
        assert process[case]["split"] == close(process[case]["whole"])
    assert found[0]["mixed"]["split"] != close(found[0]["text only"]["split"])  # the pictures were seen


def test_deepstack_features_pass_between_split_passes(found):
    """Qwen3-VL's, which the decoder's first layers add; also beside a process without a picture."""
    for process, count in zip(found, (5, 1), strict=True):
        whole, split = process["family"]
        assert [len(scores) for scores in split] == [count] * 2
        assert [close(scores) for scores in whole] == split
    seen, unseen = found[0]["family"][1]
    assert max(abs(one - other) for one, other in zip(seen, unseen, strict=True)) > 1e-2


def test_what_fails_in_one_process_is_known_in_both(found):
    """A file that is not there ends both, with its name; rows that fail otherwise are masked, and only those."""
    kind, message = found[0]["missing"]
    assert kind == "UserError" and "process 1" in message and "no/such/file.png" in message
    assert found[1]["missing"][0] == "DataError"
    assert found[0]["closed"][0] == [None] and "Operation on closed image" in found[0]["closed"][1]
    assert found[1]["closed"] == [close(found[1]["after"]["split"]), ""]


def test_the_model_and_its_cache_are_known_by_the_same_fingerprint(found):
    prints = {one for process in found for one in process["fingerprints"]}
    assert len(prints) == 1
    assert [len(process["cached"]) for process in found] == [1, 0]
    assert found[0]["cache"] == [*prints]


def test_a_group_in_two_processes_is_one(found):
    """Through torch.distributed; tests/rewards/test_score_together.py has the cases."""
    assert [process["ranks"] for process in found] == [[1.0, 0.0], close([2 / 3, 1 / 3])]
    assert [process["masked"] for process in found] == [[None, None]] * 2
