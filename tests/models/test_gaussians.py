"""Gaussian predictions meet evidence: in float32 what holds in float64."""

import pytest
import torch

from dbn_vae.distributions import Evidence, normal
from dbn_vae.models.gaussians import log_integral

DOUBLE = torch.float64


@pytest.mark.parametrize("variance", [1e-30, 1e-6, 1.0, 1e10, 1e37])
def test_no_width_of_the_prediction_overflows(variance: float) -> None:
    """Evidence of latents that are silent, faint and loud."""
    h, J = (torch.tensor(v, dtype=DOUBLE) for v in ([0.0, 0.1, 17.0], [0.0, 1e-3, 8.0]))
    mean, scale = torch.full((3,), 0.5, dtype=DOUBLE), torch.full((3,), variance, dtype=DOUBLE).sqrt()
    exact = log_integral(normal(mean, scale), Evidence(h, J))
    single = log_integral(normal(mean.float(), scale.float()), Evidence(h.float(), J.float()))
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
