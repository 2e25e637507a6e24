"""States begun again: what holds whatever the latents are."""

import pytest
import torch

from dbn_vae.aevb import AEVB
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import VAEHMM
from dbn_vae.training.reseed import Frames, seed
from dbn_vae.transitions import Stationary


@pytest.mark.parametrize("chosen", range(0, 64, 4))
def test_a_state_begins_at_a_frame_though_another_is_there_already(chosen: int) -> None:
    """Centres that are the frames but for their last digits: a frame is nobody's but the state's that begins at it."""
    K, Z = 64, 16
    z = 5 * torch.randn(K, Z, generator=torch.Generator().manual_seed(0))
    may = torch.zeros(K, K, dtype=torch.bool)
    may[chosen] = True
    nothing = torch.zeros(K)
    frames = Frames(torch.full((K, K), 1 / K), nothing, may, z, z, nothing > 0, nothing + 1)
    uniform = torch.full((K,), 1 / K)
    chain = Stationary(uniform, uniform.expand(K, K).clone())
    model = VAEHMM(AEVB(3, Z, Gaussian(), (4,)), chain, z * (1 + 2e-7), torch.ones(K, Z))
    state = (chosen + 1) % K
    alive = [k for k in range(K) if k != state]
    with torch.no_grad():
        assert seed(model, state, alive, frames, torch.Generator())
    torch.testing.assert_close(model.mean[state].detach(), z[chosen])
    assert model.log_scale.isfinite().all()
