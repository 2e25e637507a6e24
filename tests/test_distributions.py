"""Log-probabilities, which are worked out in two ways: for a few numbers without gradients in NumPy, else in torch."""

import math

import pytest
import torch

from dbn_vae.distributions import log_normalized


@pytest.mark.parametrize("K", [1, 3, 40], ids="K={}".format)  # 40 × 40 numbers are many
@pytest.mark.parametrize("gradients", [False, True])
def test_log_normalized_is_log_softmax_with_zeros_exact(K: int, gradients: bool) -> None:
    logits = 300 * torch.randn(K, K, generator=torch.Generator().manual_seed(K), dtype=torch.float64)
    logits[:, 1:2] = -math.inf  # K = 1 has none
    with torch.set_grad_enabled(gradients):
        found = log_normalized(logits)
    torch.testing.assert_close(found, logits.log_softmax(-1), rtol=1e-13, atol=1e-13)
    assert (found[:, 1:2] == -math.inf).all()


@torch.no_grad()
def test_log_normalized_maps_and_compiles_whole_without_gradients() -> None:
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(torch.func.vmap(log_normalized)(logits), expected)
    whole = torch.compile(log_normalized, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(logits[0]), expected[0])
