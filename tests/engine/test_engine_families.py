"""Today's families with vLLM's real engine: the prompts that it reads, its texts and log-probabilities.
`make test-vllm`."""

from types import SimpleNamespace

import pytest

from evals.asking.turns import Talks
from evals.generate import VLLM
from tests.engine import world
from vlm import families
from vlm.sections import ImageSection

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("engines")]
COMPARED = ("qwen3_vl", "glm4v", "llava", "internvl")
"""Beside Qwen2-VL, of which the other files are, and Qwen2.5-VL, which vLLM reads as that."""
LIMITS = ImageSection(min_pixels=56 * 56, max_pixels=112 * 112)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """12 demo questions, and about two pictures, a strip, and none."""
    folder = tmp_path_factory.mktemp("questions")
    return world.questions(folder / "data", 3) + world.odd_ones(folder / "odd")


def test_all_that_say_so_are_compared():
    assert {kind for kind, family in families.FAMILIES.items() if family.vllm} == {*COMPARED, "qwen2_vl", "qwen2_5_vl"}


@pytest.mark.parametrize("kind", COMPARED)
def test_the_engine_reads_and_writes_as_transformers(kind, few, family_checkpoints, tmp_path):
    """Prompts equal, texts equal, log-probabilities to 1e-4 nats; evaluation asks the same."""
    made = world.trainer(
        few, tmp_path, base=family_checkpoints(kind), limits=LIMITS, use_vllm=True, max_completion_length=12
    )
    processor = made.processing_class
    ids, _ = world.asked(few, processor)
    asking, talks = SimpleNamespace(processor=processor), Talks(world.PROMPT, 12, processor.sight)
    assert [VLLM.request(asking, talks.begun((sample, 0))).meant for sample in few] == ids
    said, logps = world.greedy(made, few)  # which compares what was read with `ids`
    assert world.texts(made, said) == world.by_transformers(made, few, 12)
    for sample, row, found in zip(few, said, logps, strict=True):
        assert world.log_probabilities(made, sample, row) == pytest.approx(found, abs=1e-4)
    assert len({tuple(row) for row in said}) > 4
