"""Shared against plain log-probabilities in half precision, and the tolerances of the check."""

from types import SimpleNamespace

import pytest
import torch

from rl.sharing import packed, parity
from tests.support.groups import batch, gradients, plain, policy
from vlm.common.errors import UserError

pytestmark = pytest.mark.versions

GROUPS = [(7, (1,), (9, 8, 12, 5)), (9, (0, 2), (14, 11))]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_differs_no_more_than_it_does_from_float32(tiny_model, dtype):
    """|shared − plain| of log-probabilities and of gradients, on average below |plain − plain in float32|."""
    found = {}
    for kind in (torch.float32, dtype):
        model = policy(tiny_model).to(kind).train()
        given = batch(model.config, GROUPS)
        given.stored["pixel_values"] = given.stored["pixel_values"].to(kind)
        logps, entropies = plain(model, given)
        found[kind, "plain"] = logps.detach().float(), gradients(model, logps, entropies, given.there)
        shared = packed.log_probabilities(
            model,
            given.rows,
            given.ids,
            given.mask,
            given.keep,
            given.stored,
        )
        made = gradients(model, shared.logps, shared.entropies, given.there)
        found[kind, "shared"] = shared.logps.detach().float(), made

    def apart(a, b):
        (one, ones), (two, twos) = found[a], found[b]
        names = [name for name in twos if twos[name].norm() > 1e-4]
        worst = [((ones[n].float() - twos[n].float()).norm() / twos[n].float().norm()).item() for n in names]
        return (one - two)[given.there].abs().mean().item(), sum(worst) / len(worst)

    of_sharing = apart((dtype, "shared"), (dtype, "plain"))
    of_rounding = apart((dtype, "plain"), (torch.float32, "plain"))
    assert 0 < of_sharing[0] < of_rounding[0] and 0 < of_sharing[1] < of_rounding[1]  # measured: half of it


def test_tolerances_by_dtype():
    a, b, there = torch.zeros(1, 4), torch.tensor([[0.0, 0.3, 0.0, 9.0]]), torch.tensor([[1, 1, 1, 0]])
    assert parity.deviation(a, b, there, "float32").item() == pytest.approx(0.3)
    assert parity.deviation(a, b, there, "bfloat16").item() == pytest.approx(0.1)
    assert parity.deviation(a, b, 0 * there, "float32") == parity.deviation(a, b, 0 * there, "bfloat16") == 0
    parity.judge(0.09, "bfloat16")
    for figure, dtype in ((0.11, "bfloat16"), (2e-4, "float32"), (float("nan"), "float16")):
        with pytest.raises(UserError, match="share_prefix: false"):
            parity.judge(figure, dtype)
    off = SimpleNamespace(bf16=False, fp16=False)
    cpu = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    assert parity.precision(off, cpu) == "float32"
    assert parity.precision(SimpleNamespace(bf16=True, fp16=False), cpu) == "bfloat16"
