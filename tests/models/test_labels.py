"""log p(labels | x), which discriminative training ascends: probabilities of labellings, whatever the model.

Every labelling of a short sequence is asked for: together they have probability 1, a partial one has that of those it
leaves open, a soft one their expected evidence, and each is the exponential of a path's score less log Z.
"""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import log_joint, paths
from torch import Tensor

from dbn_vae.aevb import AEVB
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import HMM, VAEHMM, ClipVAEHMM, Filtering, StateModel, SwitchingDMM
from dbn_vae.models.chains import log_p_labels
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions import CategoricalDuration, Linear, SemiMarkov, Stationary

K, Z, D, T = 3, 2, 2, 3
close = torch.testing.assert_close


def rows(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).add(0.1)


def chain() -> Stationary:
    start, moves = rows(K), rows(K, K)
    return Stationary(start / start.sum(), moves / moves.sum(1, keepdim=True))


def stays() -> SemiMarkov:
    moves = rows(K, K) * (1 - torch.eye(K))
    lengths = rows(K, 2)
    return SemiMarkov(
        Stationary(torch.full((K,), 1 / K).double(), moves / moves.sum(1, keepdim=True)),
        CategoricalDuration(lengths / lengths.sum(1, keepdim=True)),
    )


def core(n_latent: int = Z) -> AEVB:
    return AEVB(D, n_latent, Gaussian(), (4,)).double()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


MODELS: dict[str, Callable[[], StateModel]] = {
    "hmm": lambda: HMM(chain(), DiagonalGaussian(normal(K, D), rows(K, D))),
    "vae-hmm": lambda: VAEHMM(core(), chain(), normal(K, Z), rows(K, Z)).double(),
    "vae-hmm, stays": lambda: VAEHMM(core(), stays(), normal(K, Z), rows(K, Z)).double(),
    "clip": lambda: ClipVAEHMM(core(Z + 1), chain(), normal(K, Z), rows(K, Z)).double(),
    "switching": lambda: SwitchingDMM(
        core(), chain(), [Linear(Z).double() for _ in range(K)], Filtering()
    ).double(),
}
every_model = pytest.mark.parametrize("name", MODELS)


def batch(labels: Tensor | list[Tensor], n: int = 1) -> Batch:
    """n sequences of T frames, the same ones at every call; the last of several is a frame shorter."""
    x = torch.randn(n * T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths = [T] * n if n == 1 else [*[T] * (n - 1), T - 1]
    return Sequences.from_any(x[: sum(lengths)], lengths, labels=labels).batch()


def of_every_labelling(model: StateModel) -> Tensor:
    """(K^T,)."""
    return torch.stack([log_p_labels(model, batch(path)) for path in paths(T, K)]).flatten()


@torch.no_grad()
@every_model
def test_labellings_have_probabilities(name: str) -> None:
    model = MODELS[name]()
    each = of_every_labelling(model).exp()
    close(each.sum(), torch.ones(()).double(), rtol=1e-10, atol=0)
    assert each.min() >= 0 and each.max() < 1
    for known in ([-1, 2, -1], [0, -1, 1], [-1, -1, -1]):
        consistent = [
            all(k in (-1, s) for k, s in zip(known, path, strict=True)) for path in paths(T, K).tolist()
        ]
        found = log_p_labels(model, batch(torch.tensor(known))).exp()
        close(found, each[consistent].sum()[None], rtol=1e-10, atol=1e-12)


@torch.no_grad()
@every_model
def test_of_soft_labels_it_is_the_expected_evidence(name: str) -> None:
    model, evidence = MODELS[name](), rows(T, K)
    evidence = evidence / evidence.amax(1, keepdim=True)  # as labels are kept
    each = of_every_labelling(model).exp()
    weights = evidence[torch.arange(T), paths(T, K)].prod(1)
    close(log_p_labels(model, batch(evidence)), (each @ weights).log()[None], rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in MODELS if "stays" not in name])
def test_of_a_whole_path_it_is_that_paths_score_less_log_z(name: str) -> None:
    model = MODELS[name]()
    _, score = log_joint(model.chain(batch(torch.full((T,), -1))._replace(labels=None)).dense(), 0)
    close(of_every_labelling(model), score - score.logsumexp(0), rtol=1e-9, atol=1e-10)


@torch.no_grad()
@every_model
def test_sequences_do_not_see_each_other_and_those_without_labels_say_nothing(name: str) -> None:
    model = MODELS[name]()
    labels = torch.tensor([2, -1, 0, -1, -1, -1, 1, -1, 1, 0, -1])
    together = batch(labels, 4)
    found = log_p_labels(model, together)
    assert found[1] == 0 and (found[[0, 2, 3]] < 0).all()
    for b, length in enumerate(together.lengths.tolist()):
        alone = Batch(*(None if field is None else field[b : b + 1] for field in together))
        cut = alone._replace(
            x=alone.x[:, :length], observed=alone.observed[:, :length], labels=alone.labels[:, :length]
        )
        close(log_p_labels(model, cut), found[b : b + 1], rtol=1e-9, atol=1e-12)
    assert (log_p_labels(model, together._replace(labels=None)) == 0).all()


@every_model
def test_its_gradient_is_that_of_finite_differences(name: str) -> None:
    model, known = MODELS[name](), batch(torch.tensor([0, -1, 2]))
    parameters = [p for p in model.parameters() if p.requires_grad]
    value = log_p_labels(model, known).sum()
    gradient = torch.autograd.grad(value, parameters, allow_unused=True)
    assert any(g is not None and g.abs().max() > 1e-3 for g in gradient)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True) if g is not None)

    def moved(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
            out = float(log_p_labels(model, known))
            for p, d in zip(parameters, direction, strict=True):
                p -= step * d
        return out

    assert math.isclose((moved(1e-5) - moved(-1e-5)) / 2e-5, slope, rel_tol=1e-5, abs_tol=1e-8)


@torch.no_grad()
def test_a_sampled_chain_is_right_on_average() -> None:
    """exp of its potentials estimates ∫ N(z; μ_k, σ_k²) p(x_t | z) dz, here summed over a grid, without bias."""
    model = VAEHMM(core(1), chain(), normal(K, 1), rows(K, 1)).double()
    x = batch(torch.full((T,), -1))._replace(labels=None)
    z = torch.linspace(-15, 15, 6001).double()[:, None]
    fit = model.core.log_likelihood(x.x[0][:, None], x.observed[0][:, None], z)  # (T, 6001)
    prior = torch.distributions.Normal(model.mean, model.log_scale.exp()).log_prob(z[:, None])[
        ..., 0
    ]  # (6001, K)
    exact = (fit[..., None] + prior).logsumexp(1).exp() * (z[1] - z[0])
    g = torch.Generator().manual_seed(0)
    found = torch.stack([model.chain_sampled(x, g).log_emission[0].exp() for _ in range(400)])
    assert ((found.mean(0) - exact).abs() <= 5 * found.std(0) / 20).all()
    assert (found.std(0) > 0).all()
