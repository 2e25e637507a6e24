"""Gradient ascent of the exact log-likelihood learns every family, and stops where EM's update is the identity."""

import copy
from itertools import islice

import pytest
import torch
from random_models import FAMILIES, random_data, random_model
from torch import Tensor

from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training import ascend, em

close = torch.testing.assert_close
every_family = pytest.mark.parametrize("family", FAMILIES)
# One of every kind of parameter: logarithms, factors, logits, angles, and parts of their own; that EM rests where the
# gradient vanishes test_em shows of every family.
INTERIOR = ["diagonal", "full", "categorical", "poisson", "von-mises", "mixture"]


def penalised(model: HMM, data: Sequences) -> Tensor:
    """Σ_b log p(x_b) + log p(θ): ()."""
    batch = data.batch()
    return batch.weights @ model.objective(batch) + model.log_parameter_prior()


def steepness(model: HMM, data: Sequences) -> float:
    """The largest entry of the gradient."""
    found = torch.autograd.grad(penalised(model, data), list(model.parameters()))
    return float(torch.cat([g.flatten() for g in found]).abs().max())


def climb(model: HMM, data: Sequences, n_updates: int, rate: float, batch_size: int, memory: float) -> None:
    """Adam with a rate that falls to 0; its memory of squared gradients is long where minibatches make them noisy."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, memory))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates)
    g = torch.Generator().manual_seed(0)
    for _ in islice(ascend(model, data, optimizer, batch_size=batch_size, generator=g), n_updates):
        schedule.step()


def meaning(model: HMM, data: Sequences) -> list[Tensor]:
    """What the parameters say, whatever they are called: log-potentials of all frames, π and A."""
    batch = data.batch()
    with torch.no_grad():
        log_prob = model.emission.log_prob(*model.frames(batch))[batch.mask]
    return [log_prob, model.transition.log_initial().exp(), model.transition.log_transition().exp()]


@every_family
def test_every_parameter_has_a_gradient_and_a_small_step_along_it_climbs(family: str) -> None:
    g = torch.Generator().manual_seed(11)
    data = random_data(family, g, 6, 0.2, True)
    model = random_model(family, g, strength=1.0)
    before = float(penalised(model, data).detach())
    value = penalised(model, data)
    for name, p in model.named_parameters():
        (slope,) = torch.autograd.grad(value, p, retain_graph=True)
        assert slope.isfinite().all(), name
        assert slope.abs().max() > 0, f"nothing would ever move {name}"
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    list(islice(ascend(model, data, optimizer, batch_size=6, generator=g), 3))
    assert float(penalised(model, data).detach()) > before


@pytest.mark.some(2)
@pytest.mark.parametrize("family", INTERIOR)
def test_where_the_gradient_vanishes_em_stands_still(family: str) -> None:
    """From far off ascent comes to rest, and there an update of EM changes no probability by a thousandth."""
    g = torch.Generator().manual_seed(11)
    data = random_data(family, g, 8, T=20)
    model = random_model(family, g, strength=1.0)
    twin = copy.deepcopy(model)
    start = steepness(model, data)
    climb(model, data, 300, 0.3, 8, 0.9)
    end = steepness(model, data)
    here = meaning(model, data)
    first, second = islice(em(model, data), 2)
    assert 0 <= second.objective - first.objective < 1e-3, "EM finds more to gain"
    close(meaning(model, data), here, rtol=1e-2, atol=1e-2)
    assert end < 0.02 * start, f"gradient {end:.1e}, at the start {start:.1e}"
    moved = [(a - b).abs().max() for a, b in zip(here, meaning(twin, data), strict=True)]
    assert max(moved) > 0.1, "the start was as good"


def test_minibatches_lead_to_an_optimum_of_em() -> None:
    """Two sequences at a time, with a rate that falls: from where they end EM gains no 0.001 nats a frame."""
    g = torch.Generator().manual_seed(3)
    data = random_data("diagonal", g, 30, T=20)
    model = random_model("diagonal", g, strength=1.0)
    start = float(penalised(model, data).detach())
    climb(model, data, 800, 0.1, 2, 0.999)
    reached = float(penalised(model, data).detach())
    *_, last = islice(em(model, data), 200)
    assert last.objective - reached < 1e-3 * data.n_frames
    assert reached - start > 0.1 * data.n_frames
