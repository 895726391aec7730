"""Muon's update, against the singular value decomposition that it approximates."""

from __future__ import annotations

import pytest
import torch

from demo.pretrain import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_the_update_keeps_singular_vectors_and_levels_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalize(matrix) @ vh.T
    levels = inside.diagonal()
    assert ((levels > 0.6) & (levels < 1.3)).all()  # Jordan et al. (2024): the quintic ends in about [0.7, 1.2]
    assert (inside - levels.diag()).abs().max() < 1e-4


def test_first_step_is_the_levelled_gradient():
    """lr · sqrt(rows / columns) for a tall matrix, after decay by 1 − lr · weight_decay."""
    weight = torch.nn.Parameter(torch.ones(8, 2))
    gradient = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    weight.grad = gradient.clone()
    Muon([weight], lr=0.1, momentum=0.95, weight_decay=0.5).step()
    # the momentum's scale does not matter: the update depends on the gradient's direction only
    expected = torch.ones(8, 2) * 0.95 - 0.1 * 2.0 * orthogonalize(gradient)
    assert torch.allclose(weight, expected, atol=1e-4)


def test_it_solves_a_regression():
    generator = torch.Generator().manual_seed(2)
    x, truth = torch.randn(64, 6, generator=generator), torch.randn(6, 4, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        ((x @ weight - x @ truth) ** 2).mean().backward()
        optimizer.step()
    assert (weight - truth).abs().max() < 0.05
