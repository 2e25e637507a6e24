"""Differences of gamma functions against the sums they are for whole h; roots against the functions they invert."""

import math

import pytest
import torch

from dbn_vae.emissions.special import digamma_difference, gamma_shape, increasing_root, log_gamma_ratio
from dbn_vae.emissions.von_mises import concentrated

A = torch.tensor([0.3, 2.0, 60.0, 99.9, 100.1, 150.0, 1e3, 1e6, 1e9, 1e12], dtype=torch.float64)
close = torch.testing.assert_close


@pytest.mark.parametrize("h", [0, 1, 2, 7, 300])
def test_differences_of_gamma_functions_are_sums(h: int) -> None:
    """Γ(a + h) / Γ(a) = Π_{i<h} (a + i), so ψ(a + h) − ψ(a) = Σ_{i<h} 1 / (a + i)."""
    ratio = torch.tensor(
        [math.fsum(math.log(a + i) for i in range(h)) for a in A.tolist()], dtype=torch.float64
    )
    difference = torch.tensor(
        [math.fsum(1 / (a + i) for i in range(h)) for a in A.tolist()], dtype=torch.float64
    )
    close(log_gamma_ratio(A, float(h)), ratio, rtol=1e-13, atol=2e-13)
    close(digamma_difference(A, float(h)), difference, rtol=2e-12, atol=1e-14)


def test_half_a_step_twice_is_a_step() -> None:
    close(log_gamma_ratio(A, 0.5) + log_gamma_ratio(A + 0.5, 0.5), A.log(), rtol=1e-13, atol=2e-13)


def test_roots_invert_their_functions() -> None:
    shape = torch.tensor([0.05, 1.0, 3.0, 40.0, 1e4]).double()
    close(gamma_shape(shape.log() - torch.digamma(shape)), shape, rtol=1e-6, atol=0)
    kappa = torch.tensor([1e-3, 0.5, 2.0, 50.0, 1e4]).double()
    ratio = torch.special.i1e(kappa) / torch.special.i0e(kappa)
    close(concentrated(ratio), kappa, rtol=1e-8, atol=0)


def test_a_root_beyond_the_bracket_is_at_its_end() -> None:
    always = lambda t: (torch.ones_like(t), torch.ones_like(t))  # noqa: E731
    never = lambda t: (-torch.ones_like(t), torch.ones_like(t))  # noqa: E731
    close(increasing_root(always, A).log(), torch.full_like(A, -23.0), rtol=0, atol=1e-6)
    close(increasing_root(never, A).log(), torch.full_like(A, 23.0), rtol=0, atol=1e-6)
