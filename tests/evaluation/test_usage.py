"""What each latent and each state carries adds up to what the bounds say of all together."""

import pytest
import torch

from dbn_vae import inference
from dbn_vae.aevb import AEVB
from dbn_vae.evaluation.collapse import active_units, kl_by_dimension, usage
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import DMM, VAE, VAEHMM, MeanFieldVAEHMM, Product, SwitchingDMM
from dbn_vae.models.base import LatentModel
from dbn_vae.sequences import Sequences
from dbn_vae.transitions import Linear, sticky

close = torch.testing.assert_close
f64 = torch.float64


@pytest.fixture(scope="module")
def core() -> AEVB:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AEVB(3, 2, Gaussian(), hidden=(4,)).to(f64)


@pytest.fixture(scope="module")
def data() -> Sequences:
    g = torch.Generator().manual_seed(1)
    return Sequences.from_any([torch.randn(n, 3, generator=g, dtype=f64).numpy() for n in (5, 2, 7)])


def made(kind: str, core: AEVB, K: int = 2) -> LatentModel:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        components = torch.randn(K, 2, dtype=f64), torch.rand(K, 2, dtype=f64) + 0.5
        move, product = Linear(2).to(f64), Product(3, 2, 3).to(f64)
    models = {
        "vae": lambda: VAE(core),
        "vae-hmm": lambda: VAEHMM(core, sticky(K), *components),
        "mean-field": lambda: MeanFieldVAEHMM(core, sticky(K), *components),
        "dmm": lambda: DMM(core, move, product).to(f64),
        "switching": lambda: SwitchingDMM(core, sticky(K), [move] * K, product).to(f64),
    }
    return models[kind]()


@torch.no_grad()
def total(model: LatentModel, data: Sequences) -> torch.Tensor:
    batch = data.batch()
    return (kl_by_dimension(model, batch).sum(-1) * batch.mask).sum(-1)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vae", "dmm"])
def test_latents_add_up_to_the_kl_of_the_bound(kind: str, core: AEVB, data: Sequences) -> None:
    """With the same noise, to rounding."""
    model = made(kind, core)
    close(total(model, data), model.elbo(data.batch(), 1, torch.Generator().manual_seed(0)).kl)


@torch.no_grad()
def test_latents_and_states_add_up_in_a_vae_hmm(core: AEVB, data: Sequences) -> None:
    """KL(q(s, z) ‖ p(s, z)) = KL(q(s) ‖ p(s)) + E_q(s) KL(q(z | s) ‖ p(z | s)), the former Σ γ r − log Z."""
    model, batch = made("vae-hmm", core), data.batch()
    assert isinstance(model, VAEHMM)
    r = model.state_potential(batch)
    chain = model.chain_of(r, batch)
    of_states = (inference.smooth(chain).gamma * r).sum((-2, -1)) - inference.log_partition(chain)
    assert (of_states > 0).all()
    close(total(model, data) + of_states, model.elbo(batch).kl)


@torch.no_grad()
def test_one_state_is_none(core: AEVB, data: Sequences) -> None:
    """A mean-field VAE-HMM of one state has all its KL in its latents; a switching DMM is the DMM."""
    one = made("mean-field", core, 1)
    close(total(one, data), one.elbo(data.batch()).kl)
    batch = data.batch()
    a, b = (kl_by_dimension(made(kind, core), batch) for kind in ("switching", "dmm"))
    close(a[batch.mask], b[batch.mask])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vae", "vae-hmm", "dmm", "switching"])
def test_a_silenced_latent_carries_nothing(kind: str, core: AEVB, data: Sequences) -> None:
    """J → 0 for it: the encoder says nothing of it, and q is its prediction."""
    with torch.random.fork_rng():
        silent = AEVB(3, 2, Gaussian(), hidden=(4,)).to(f64)
    silent.load_state_dict(core.state_dict())
    silent.encoder[-1].bias[3], silent.encoder[-1].weight[3] = -60.0, 0.0
    model = made(kind, silent)
    if hasattr(model, "recognition"):
        model.recognition.head.bias[3], model.recognition.head.weight[3] = -60.0, 0.0
    found = usage(model, data)
    assert found.kl[1] < 1e-12
    assert found.kl[0] > 1e-4
    if kind == "vae":
        assert active_units(100 * found.variance) == 1


@torch.no_grad()
def test_a_sequence_of_weight_2_is_two_sequences(core: AEVB, data: Sequences) -> None:
    model = made("vae-hmm", core)
    heavy = usage(model, data.replace(weights=torch.tensor([1.0, 2.0, 0.0], dtype=f64)))
    twice = usage(model, data.subset([0, 1, 1]))
    for a, b in zip(heavy, twice, strict=True):
        close(a, b)
    assert float(heavy.shares.sum()) == pytest.approx(1)
