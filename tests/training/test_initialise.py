"""Starts: the truth given as responsibilities comes back as parameters."""

import pytest
import torch

from dbn_vae import emissions
from dbn_vae.aevb import AEVB
from dbn_vae.emissions import gaussian
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import HMM, VAEHMM
from dbn_vae.sequences import Sequences
from dbn_vae.training import adopt, cluster, randomly, start
from dbn_vae.transitions import Stationary, sticky

K = 3
close = torch.testing.assert_close
f64 = torch.float64
TRANSMAT = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]], dtype=f64)
STARTPROB = torch.tensor([0.5, 0.3, 0.2], dtype=f64)


def blank(emission: emissions.Emission) -> HMM:
    third = torch.full((K,), 1 / K, dtype=f64)
    return HMM(Stationary(third, third.expand(K, K).clone()), emission)


EMISSIONS = {
    "gaussian": gaussian.DiagonalGaussian(
        4 * torch.eye(K, 2, dtype=f64) - 1, torch.tensor([[0.5, 1], [1, 2], [2, 0.3]], dtype=f64)
    ),
    "categorical": emissions.Categorical(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], dtype=f64)),
    "bernoulli": emissions.Bernoulli(torch.tensor([[0.9, 0.2], [0.5, 0.5], [0.1, 0.7]], dtype=f64)),
    "poisson": emissions.Poisson(torch.tensor([[1.0, 8.0], [4.0, 4.0], [9.0, 0.5]], dtype=f64)),
}  # fmt: skip


@pytest.mark.some(2)
@pytest.mark.parametrize("family", EMISSIONS)
def test_true_responsibilities_give_the_true_parameters(family: str) -> None:
    """As near as 20,000 frames come: 5 standard errors of a probability, relative of a mean."""
    truth = HMM(Stationary(STARTPROB, TRANSMAT), EMISSIONS[family])
    g = torch.Generator().manual_seed(0)
    drawn = [truth.sample(50, g) for _ in range(400)]
    data = Sequences.from_any([x.numpy() for x, _ in drawn])
    states = torch.cat([s for _, s in drawn])
    model = blank(type(truth.emission)(*(torch.full_like(p, 0.5) for p in arguments(truth.emission))))
    start(model, data, torch.nn.functional.one_hot(states, K).to(f64))
    close(model.transition.log_transition().exp(), TRANSMAT, atol=0.03, rtol=0)
    close(model.transition.log_initial().exp(), STARTPROB, atol=0.12, rtol=0)
    for found, expected in zip(arguments(model.emission), arguments(truth.emission), strict=True):
        close(found, expected, rtol=0.06, atol=0.03)


def arguments(emission: emissions.Emission) -> list[torch.Tensor]:
    """What a family is constructed from."""
    if isinstance(emission, gaussian.DiagonalGaussian):
        return [emission.mean.detach(), emission.variance().detach()]
    table = emission.rates() if isinstance(emission, emissions.Poisson) else emission.probs()  # type: ignore[union-attr]
    return [table.detach()]


def test_no_move_is_counted_across_sequences_and_none_starts_impossible() -> None:
    """Two sequences that stay in their states: 1/K pseudo-counts beside exactly the moves within them."""
    x = [[[0.0], [0.0], [0.0]], [[5.0], [5.0]]]
    model = blank(gaussian.DiagonalGaussian(torch.zeros(K, 1, dtype=f64), torch.ones(K, 1, dtype=f64)))
    start(model, Sequences.from_any(x), torch.eye(K, dtype=f64)[[0, 0, 0, 1, 1]])
    pairs = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=f64)) + 1 / K
    close(model.transition.log_transition().exp(), pairs / pairs.sum(1, keepdim=True))
    first = torch.tensor([1.0, 1.0, 0.0], dtype=f64) + 1 / K
    close(model.transition.log_initial().exp(), first / first.sum())


def test_weights_of_sequences_weigh() -> None:
    x = [[[0.0], [1.0]], [[4.0], [6.0]]]
    one = torch.ones(4, 1, dtype=f64)
    models = []
    for data, r in (
        (Sequences.from_any(x, weights=[3, 1]), one),
        (Sequences.from_any([x[0]] * 3 + [x[1]]), one[:1].expand(8, 1)),
    ):
        model = HMM(Stationary(torch.ones(1, dtype=f64), torch.ones(1, 1, dtype=f64)),
                    gaussian.DiagonalGaussian(torch.zeros(1, 1, dtype=f64), torch.ones(1, 1, dtype=f64)))  # fmt: skip
        start(model, data, r)
        models.append(model)
    close(models[0].emission.mean, models[1].emission.mean)
    close(models[0].emission.variance(), models[1].emission.variance())


def one_hot(responsibilities: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(responsibilities.argmax(1), K).double()


def test_cluster_finds_the_groups_whatever_the_scale_and_what_is_missing() -> None:
    g = torch.Generator().manual_seed(1)
    label = torch.randint(K, (300,), generator=g)
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    x = centres[label] + torch.randn(300, 2, generator=g)
    r = cluster(
        Sequences.from_any((x * torch.tensor([1.0, 1e4])).numpy()), K, torch.Generator().manual_seed(0)
    )
    assert r.shape == (300, K)
    torch.testing.assert_close(r.sum(1), torch.ones(300, dtype=f64))
    torch.testing.assert_close(r.max(1).values, torch.full((300,), 0.9 + 0.1 / K, dtype=f64))
    assert (r > 0).all(), "nothing starts impossible"
    table = torch.nn.functional.one_hot(label, K).double().T @ one_hot(r)
    assert (table.max(1).values.sum() / 300) > 0.98
    assert sorted(table.argmax(1).tolist()) == [0, 1, 2]
    missing = x.clone()
    missing[::7, 0] = torch.nan
    again = cluster(Sequences.from_any(missing.numpy()), K, torch.Generator().manual_seed(0))
    complete = (torch.arange(300) % 7 != 0).nonzero().flatten()
    table = torch.nn.functional.one_hot(label[complete], K).double().T @ one_hot(again[complete])
    assert (table.max(1).values.sum() / len(complete)) > 0.95


def test_cluster_with_fewer_different_frames_than_states_falls_back_on_chance() -> None:
    data = Sequences.from_any([[1.0], [1.0], [2.0], [1.0]])
    r = cluster(data, 3, torch.Generator().manual_seed(0))
    close(r.sum(1), torch.ones(4, dtype=f64))
    assert ((r > 0) & (r < 1)).all()


def test_random_responsibilities_are_uniform_on_the_simplex() -> None:
    """Mean 1/K and variance (K − 1) / (K² (K + 1)), those of Dirichlet(1, ..., 1)."""
    n = 20_000
    r = randomly(Sequences.from_any([[0.0]] * n), K, torch.Generator().manual_seed(0))
    variance = (K - 1) / (K**2 * (K + 1))
    close(r.sum(1), torch.ones(n, dtype=f64))
    close(r.mean(0), torch.full((K,), 1 / K, dtype=f64), atol=5 * (variance / n) ** 0.5, rtol=0)
    close(r.var(0), torch.full((K,), variance, dtype=f64), rtol=0.05, atol=0)
    again = randomly(Sequences.from_any([[0.0]] * n), K, torch.Generator().manual_seed(0))
    assert torch.equal(r, again)


@pytest.mark.parametrize("covariance", ["diag", "full", "tied", "spherical"])
def test_adopt_copies_the_hmm(covariance: str) -> None:
    g = torch.Generator().manual_seed(0)
    mean = torch.randn(K, 2, generator=g, dtype=f64)
    full = (
        torch.tensor([[[2.0, 0.5], [0.5, 1.0]]], dtype=f64)
        * torch.tensor([1.0, 2.0, 3.0], dtype=f64)[:, None, None]
    )
    emission = {
        "diag": lambda: gaussian.DiagonalGaussian(mean, full.diagonal(dim1=1, dim2=2)),
        "full": lambda: emissions.FullGaussian(mean, full),
        "tied": lambda: emissions.TiedGaussian(mean, full[1]),
        "spherical": lambda: gaussian.SphericalGaussian(mean, full[:, 0, 0]),
    }[covariance]()
    hmm = HMM(Stationary(STARTPROB, TRANSMAT), emission)
    model = VAEHMM(
        AEVB(4, 2, Gaussian()).double(), sticky(K), torch.zeros(K, 2, dtype=f64), torch.ones(K, 2, dtype=f64)
    )
    adopt(model, hmm)
    close(model.transition.log_initial().exp(), STARTPROB)
    close(model.transition.log_transition().exp(), TRANSMAT)
    close(model.components().mean, mean)
    close(model.components().variance, emission.covariance().diagonal(dim1=1, dim2=2))
    with torch.no_grad():
        hmm.emission.mean.add_(1.0)
        hmm.transition.initial_logits.zero_()
    close(model.components().mean, mean, msg="a copy must not follow its origin")
    close(model.transition.log_initial().exp(), STARTPROB)


def test_adopt_keeps_the_stickiness_of_the_prior() -> None:
    model = VAEHMM(
        AEVB(4, 2, Gaussian()).double(),
        sticky(K, 7.0),
        torch.zeros(K, 2, dtype=f64),
        torch.ones(K, 2, dtype=f64),
    )
    emission = gaussian.DiagonalGaussian(torch.zeros(K, 2, dtype=f64), torch.ones(K, 2, dtype=f64))
    adopt(model, HMM(Stationary(STARTPROB, TRANSMAT), emission))
    close(model.log_parameter_prior(), 7 * TRANSMAT.diagonal().log().sum())


def test_adopt_needs_gaussians() -> None:
    model = VAEHMM(AEVB(4, 2, Gaussian()), sticky(K), torch.zeros(K, 2), torch.ones(K, 2))
    poisson = HMM(Stationary(STARTPROB, TRANSMAT), EMISSIONS["poisson"])
    with pytest.raises(TypeError, match="Gaussian HMM"):
        adopt(model, poisson)


@pytest.mark.parametrize("stay", [0.6, 0.95])
def test_stay_sets_the_moves_and_leaves_the_rest(stay: float) -> None:
    g = torch.Generator().manual_seed(0)
    data = Sequences.from_any(torch.randn(2000, 1, generator=g).numpy())
    r = randomly(data, K, g)
    models = [
        blank(gaussian.DiagonalGaussian(torch.zeros(K, 1, dtype=f64), torch.ones(K, 1, dtype=f64)))
        for _ in range(2)
    ]
    start(models[0], data, r)
    start(models[1], data, r, stay=stay)
    expected = stay * torch.eye(K, dtype=f64) + (1 - stay) / (K - 1) * (1 - torch.eye(K, dtype=f64))
    close(models[1].transition.log_transition().exp(), expected, atol=1e-3, rtol=0)
    close(models[1].transition.log_initial(), models[0].transition.log_initial())
    close(models[1].emission.mean, models[0].emission.mean)
