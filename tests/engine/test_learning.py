"""The demo's GRPO by its recipe, with vLLM and without, and the benchmark of a GPU as it is rehearsed. `make
test-vllm`."""

import json
import statistics
import sys

import pytest

from tests.engine import world
from tests.support.processes.commands import ROOT, run

pytestmark = pytest.mark.vllm
STEPS = 20
VLLM = [
    "training.use_vllm=true", "training.vllm_mode=colocate", "training.vllm_enable_sleep_mode=false",
    "training.vllm_max_model_length=512",
]  # fmt: skip


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    from demo import dataset
    from demo.world.scene import SPLIT_SEEDS

    folder = tmp_path_factory.mktemp("prompts")
    dataset.prompts(folder, SPLIT_SEEDS["grpo"], 160)
    return folder / "prompts.jsonl"


@pytest.mark.parametrize("more", [VLLM, []], ids=["vllm", "transformers"])
def test_it_learns(prompts, tmp_path, more):
    """20 steps of recipes/demo/grpo.yaml from the base, 8 prompts each: the last five rewards exceed the first five by
    two standard errors of the difference."""
    keys = [f"model.path={world.BASE}", f"data.train.0.path={prompts}", f"output={tmp_path}/run"]
    keys += [f"training.max_steps={STEPS}", "training.per_device_train_batch_size=64", "training.logging_steps=1"]
    recipe = ROOT / "recipes/demo/grpo.yaml"
    done = run([sys.executable, ROOT / "launch/grpo.py", recipe, *keys, *more])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "reward" in row]
    assert len(rows) == STEPS, done.stdout
    first, last = ([row["reward"] for row in part] for part in (rows[:5], rows[-5:]))
    error = ((statistics.variance(first) + statistics.variance(last)) / 5) ** 0.5
    assert statistics.mean(last) - statistics.mean(first) > 2 * error > 0
    gaps = [row["vllm/logp_gap/images"] for row in rows if "vllm/logp_gap/images" in row]
    assert len(gaps) == (STEPS if more else 0) and max(gaps, default=0.0) < 1e-3


def test_the_benchmark_of_a_gpu_is_rehearsed(tmp_path):
    from tests.support.flash.gpu_checks import rehearse

    (plain, engine) = rehearse("engine_2b", tmp_path)["rows"]
    assert plain["way"] == "transformers" and engine["way"] == "vllm" and engine["vllm/logp_gap/images"] < 1e-3
