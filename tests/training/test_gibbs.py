"""Gibbs: the prior and the sampler agree (Geweke), one state has a known posterior, tiny problems are enumerated."""

import itertools
import math
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dbn_vae import emissions
from dbn_vae.emissions import gaussian
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em
from dbn_vae.training.gibbs import draw_parameters, draw_states, gibbs, matched
from dbn_vae.training.vb import DirichletChain
from dbn_vae.training.vb_gaussian import DiagonalPosterior, NormalWishart
from dbn_vae.transitions import PartlyFixed, Stationary

f64 = torch.float64
D = 2
SCALE = torch.tensor([[2.0, 0.6], [0.6, 1.5]], dtype=f64)
MEAN, WEIGHT, NU = torch.tensor([0.3, -0.5], dtype=f64), 0.7, 9.0


def prior(kind: str, K: int) -> gaussian.GaussianPrior:
    """μ | Σ ~ N(MEAN, Σ / WEIGHT), Σ ~ IW(NU, SCALE), or for each kind its counterpart."""
    if kind in ("full", "tied"):
        sharing = K if kind == "tied" else 1
        return gaussian.GaussianPrior(MEAN, WEIGHT, SCALE[None], NU + sharing + D + 1)
    dof = NU + 3 if kind == "diag" else (NU + 2) / D + 1
    return gaussian.GaussianPrior(MEAN, WEIGHT, SCALE.diagonal(), dof)


def gaussians(kind: str, K: int) -> gaussian.Gaussian:
    mean, eye = torch.zeros(K, D, dtype=f64), torch.eye(D, dtype=f64)
    return {
        "full": lambda: emissions.FullGaussian(mean, eye.expand(K, D, D), prior(kind, K)),
        "tied": lambda: emissions.TiedGaussian(mean, eye, prior(kind, K)),
        "diag": lambda: gaussian.DiagonalGaussian(mean, torch.ones(K, D, dtype=f64), prior(kind, K)),
        "spherical": lambda: gaussian.SphericalGaussian(mean, torch.ones(K, dtype=f64), prior(kind, K)),
    }[kind]()


def table(K: int, V: int) -> Tensor:
    return torch.full((K, V), 1 / V, dtype=f64)


FAMILIES: dict[str, Callable[[int], emissions.Emission]] = {
    "full": lambda K: gaussians("full", K),
    "tied": lambda K: gaussians("tied", K),
    "diag": lambda K: gaussians("diag", K),
    "spherical": lambda K: gaussians("spherical", K),
    "categorical": lambda K: emissions.Categorical(table(K, 3), torch.tensor([0.5, 1.0, 2.0], dtype=f64)),
    "multinomial": lambda K: emissions.Multinomial(table(K, 3), 4, torch.tensor([0.5, 1.0, 2.0], dtype=f64)),
    "bernoulli": lambda K: emissions.Bernoulli(table(K, D), 1.5, 0.7),
    "poisson": lambda K: emissions.Poisson(torch.ones(K, D, dtype=f64), 2.5, 1.2),
    "mixture": lambda K: emissions.Mixture(gaussians("diag", 2 * K), table(K, 2), 1.5),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(family: str, K: int) -> HMM:
    uniform = torch.full((K,), 1 / K, dtype=f64)
    return HMM(
        Stationary(uniform, uniform.expand(K, K).clone(), 1.3, 0.8 + torch.eye(K, dtype=f64)),
        FAMILIES[family](K),
    )


def values(model: HMM) -> dict[str, Tensor]:
    """The parameters in their usual form, state by state."""
    e = model.emission
    found = {
        "startprob": model.transition.log_initial().exp(),
        "transmat": model.transition.log_transition().exp(),
    }
    if isinstance(e, emissions.Mixture):
        found["weights"] = e.weights()
        e = e.component
    if isinstance(e, gaussian.Gaussian):
        found |= {"mean": e.mean, "covariance": e.covariance()}
    elif isinstance(e, emissions.Poisson):
        found["rates"] = e.rates()
    else:
        found["probs"] = e.probs()  # type: ignore[operator]
    return {name: value.detach().clone() for name, value in found.items()}


def from_prior(model: HMM, rng: np.random.Generator) -> None:
    """Parameters from the prior by scipy, which shares nothing with the sampler."""
    K, e = model.n_components, model.emission

    def rows(alpha: object, shape: tuple[int, int]) -> Tensor:
        alpha = np.broadcast_to(np.asarray(alpha), shape)
        return torch.as_tensor(np.stack([stats.dirichlet.rvs(a, random_state=rng)[0] for a in alpha]))

    def covariance(kind: str) -> Tensor:
        if kind in ("full", "tied"):
            return torch.as_tensor(stats.invwishart.rvs(NU, SCALE.numpy(), random_state=rng))
        if kind == "spherical":
            v = stats.invgamma.rvs(NU / 2, scale=float(SCALE.trace()) / 2, random_state=rng)
            return v * torch.eye(D, dtype=f64)
        return torch.as_tensor(
            np.diag([stats.invgamma.rvs(NU / 2, scale=s / 2, random_state=rng) for s in SCALE.diagonal()])
        )

    with torch.no_grad():
        model.transition.initial_logits.copy_(rows(1.3, (1, K))[0].log())
        model.transition.transition_logits.copy_(rows(0.8 + np.eye(K), (K, K)).log())
        if isinstance(e, emissions.Mixture):
            e.logits.copy_(rows(1.5, (K, 2)).log())
            e = e.component
        if isinstance(e, gaussian.Gaussian):
            kind = {
                emissions.FullGaussian: "full", emissions.TiedGaussian: "tied",
                gaussian.DiagonalGaussian: "diag", gaussian.SphericalGaussian: "spherical",
            }[type(e)]  # fmt: skip
            n = e.n_components
            Sigma = (
                covariance(kind).expand(n, D, D)
                if kind == "tied"
                else torch.stack([covariance(kind) for _ in range(n)])
            )
            drawn = [
                stats.multivariate_normal.rvs(MEAN.numpy(), S.numpy() / WEIGHT, random_state=rng)
                for S in Sigma
            ]
            e.mean.copy_(torch.as_tensor(np.stack(drawn)))
            if isinstance(e, emissions.FullGaussian):
                e.factor.copy_(torch.linalg.cholesky(Sigma[0] if kind == "tied" else Sigma))
            else:
                half_log = 0.5 * Sigma.diagonal(dim1=-2, dim2=-1).log()
                e.log_scale.copy_(half_log[:, :1] if kind == "spherical" else half_log)
        elif isinstance(e, emissions.Poisson):
            e.log_rates.copy_(torch.as_tensor(rng.gamma(2.5, 1 / 1.2, (K, D))).log())
        elif isinstance(e, emissions.Bernoulli):
            e.logits.copy_(torch.as_tensor(rng.beta(1.5, 0.7, (K, D))).logit())
        else:
            e.logits.copy_(rows([0.5, 1.0, 2.0], (K, 3)).log())  # type: ignore[operator]


def summary(model: HMM) -> Tensor:
    """Numbers whose moments prior and sampler must share: logarithms of what is heavy-tailed, squares and products."""
    found = []
    for name, value in values(model).items():
        if name == "covariance":
            found += [value.diagonal(dim1=-2, dim2=-1).flatten().log(), torch.logdet(value)]
        elif name == "rates":
            found += [value.flatten().log(), value.flatten()]
        else:
            found += [value.flatten(), value.flatten().square()]
    return torch.cat(found)


def standard_error(x: np.ndarray, n_batches: int = 25) -> np.ndarray:
    """Of the mean of a chain (n, P), by the means of batches long beside its memory."""
    means = x[: len(x) // n_batches * n_batches].reshape(n_batches, -1, x.shape[1]).mean(1)
    return means.std(0, ddof=1) / math.sqrt(n_batches)


# what these draw is drawn by others as well, or has a closed posterior to meet below
VARIANTS = [pytest.param(f, marks=pytest.mark.thorough) for f in ("tied", "diag", "spherical", "multinomial")]


@pytest.mark.some(3)
@pytest.mark.parametrize("family", ["full", "categorical", "bernoulli", "poisson", "mixture", *VARIANTS])
def test_geweke_data_redrawn_between_sweeps_leave_the_prior(family: str) -> None:
    """Getting it right (Geweke 2004): θ | x, then x | θ, again and again, visits θ as the prior draws it.

    Frames with gaps, four short sequences.  A wrong constant in any conditional moves a mean by many standard errors.
    """
    K, lengths, n = 2, [2, 1, 2, 2], 300
    g, rng = torch.Generator().manual_seed(5), np.random.default_rng(6)
    model = model_of(family, K)
    direct = []
    for _ in range(n):
        from_prior(model, rng)
        direct.append(summary(model).numpy())
    visited = []
    states = torch.cat([model.sample(t, g)[1] for t in lengths])
    gaps = torch.rand(sum(lengths), D, generator=g) < 0.25
    for _ in range(2 * n):
        with torch.no_grad():
            x = model.emission.sample(states, g).double()
        hidden = gaps if x.shape[1] == D else gaps[:, :1].expand_as(x)
        data = Sequences.from_any(torch.where(hidden, torch.nan, x).numpy(), lengths)
        draw_parameters(model, data, states, g)
        states = draw_states(model, data, g).states
        visited.append(summary(model).numpy())
    a, b = np.stack(direct), np.stack(visited)
    spread = np.sqrt(a.var(0) / n + standard_error(b) ** 2)
    z = (a.mean(0) - b.mean(0)) / np.where(spread > 0, spread, 1)
    assert np.abs(z).max() < 4.5, f"z = {z.round(1).tolist()}"


def observed(family: str, n: int = 12) -> Sequences:
    """Frames of one sequence with gaps where the family takes them."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        x = model_of(family, 1).emission.sample(torch.zeros(n, dtype=torch.int64), g).double()
    hidden = torch.rand(n, 1, generator=g).expand_as(x) < 0.2
    return Sequences.from_any(torch.where(hidden, torch.nan, x).numpy())


@pytest.mark.some(4)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mixture"])
def test_with_one_state_draws_have_the_conjugate_posteriors_mean(family: str) -> None:
    """Written out here from the textbook, frame by frame; draws are independent."""
    data = observed(family)
    x = data.x[data.observed.all(1)]
    n_all, n, bar = data.n_frames, len(x), x.mean(0)
    model = model_of(family, 1)
    g = torch.Generator().manual_seed(2)
    draws: dict[str, list[Tensor]] = {}
    for _ in range(500):
        draw_parameters(model, data, torch.zeros(n_all, dtype=torch.int64), g)
        for name, value in values(model).items():
            draws.setdefault(name, []).append(value)
    expected: dict[str, Tensor] = {}
    if family in ("full", "tied", "diag", "spherical"):
        away = bar - MEAN
        S = (x - bar).T @ (x - bar) + WEIGHT * n / (WEIGHT + n) * torch.outer(away, away)
        expected["mean"] = (WEIGHT * MEAN + n * bar) / (WEIGHT + n)
        expected["covariance"] = {
            "full": lambda: (SCALE + S) / (NU + n - D - 1),
            "tied": lambda: (SCALE + S) / (NU + n - D - 1),
            "diag": lambda: ((SCALE + S).diagonal() / (NU + n - 2)).diag(),
            "spherical": lambda: (SCALE + S).trace() / (NU + D * n - 2) * torch.eye(D, dtype=f64),
        }[family]()
    elif family == "poisson":
        expected["rates"] = (2.5 + x.sum(0)) / (1.2 + n)
    elif family == "bernoulli":
        expected["probs"] = (1.5 + x.sum(0)) / (2.2 + n)
    else:
        counts = torch.stack([(x == v).sum() for v in range(3)]) if family == "categorical" else x.sum(0)
        expected["probs"] = (torch.tensor([0.5, 1.0, 2.0], dtype=f64) + counts) / (3.5 + counts.sum())
    for name, value in expected.items():
        found = torch.stack(draws[name][1:])[:, 0]
        error = found.std(0) / math.sqrt(len(found))
        assert ((found.mean(0) - value).abs() <= 5 * error + 1e-12).all(), (
            f"{name}: {found.mean(0)} for {value}"
        )


@pytest.mark.thorough
def test_two_states_and_symbols_against_all_paths() -> None:
    """p(s | x) with parameters integrated out is Pólya's; 2^7 paths give E[A | x] and E[B | x] exactly."""
    x, K, V = [0, 0, 1, 1, 2, 0, 1], 2, 3
    alpha, beta, start = 0.8 + np.eye(K), np.array([[3.0, 1.0, 0.5], [0.5, 1.0, 2.0]]), np.array([2.0, 1.0])
    total, A, B, occupied = 0.0, np.zeros((K, K)), np.zeros((K, V)), np.zeros(len(x))
    for path in itertools.product(range(K), repeat=len(x)):
        moves, symbols = alpha.copy(), beta.copy()
        weight = start[path[0]] / start.sum()
        for t, (s, v) in enumerate(zip(path, x, strict=True)):
            if t:
                weight *= moves[path[t - 1], s] / moves[path[t - 1]].sum()
                moves[path[t - 1], s] += 1
            weight *= symbols[s, v] / symbols[s].sum()
            symbols[s, v] += 1
        total += weight
        A += weight * moves / moves.sum(1, keepdims=True)
        B += weight * symbols / symbols.sum(1, keepdims=True)
        occupied += weight * np.array(path)
    chain = Stationary(torch.full((K,), 0.5, dtype=f64), torch.full((K, K), 0.5, dtype=f64),
                       torch.as_tensor(start), torch.as_tensor(alpha))  # fmt: skip
    model = HMM(chain, emissions.Categorical(table(K, V), torch.as_tensor(beta)))
    draws = []
    for draw in islice(
        gibbs(model, Sequences.from_any(np.array(x)[:, None]), torch.Generator().manual_seed(0)), 3000
    ):
        found = values(model)
        draws.append(torch.cat([found["transmat"].flatten(), found["probs"].flatten(), draw.states]).numpy())
    chain_of = np.stack(draws[100:])
    exact = np.concatenate([(A / total).ravel(), (B / total).ravel(), occupied / total])
    z = (chain_of.mean(0) - exact) / standard_error(chain_of)
    assert np.abs(z).max() < 4.5, f"z = {z.round(1).tolist()}"


def two_states(n: int = 300) -> Sequences:
    g = torch.Generator().manual_seed(7)
    truth = HMM(
        Stationary(torch.tensor([0.5, 0.5], dtype=f64), torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=f64)),
        gaussian.DiagonalGaussian(
            torch.tensor([[0.0, 0.0], [3.0, -2.0]], dtype=f64), torch.ones(2, 2, dtype=f64)
        ),
    )
    return Sequences.from_any(truth.sample(n, g)[0].numpy())


def test_with_aligned_names_it_agrees_with_variational_bayes() -> None:
    """Well separated states have little to be uncertain of together, and there q(s) q(θ) is nearly the posterior."""
    data, K = two_states(), 2
    spread = torch.ones(K, D, dtype=f64)
    start = NormalWishart(torch.tensor([[-1.0, 0.0], [2.0, 0.0]], dtype=f64), torch.ones(K, dtype=f64),
                          torch.full((K,), NU, dtype=f64), NU * spread)  # fmt: skip
    before = NormalWishart(
        MEAN.expand(K, D), torch.full((K,), WEIGHT, dtype=f64), start.dof, SCALE.diagonal().expand(K, D)
    )
    q = HMM(
        DirichletChain(torch.full((K,), 1.3, dtype=f64), 0.8 + torch.eye(K, dtype=f64)),
        DiagonalPosterior(before, start),
    )
    list(islice(em(q, data), 60))
    model = model_of("diag", K)
    with torch.no_grad():
        model.emission.mean.copy_(torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))  # the other way round
    path = q.viterbi(data.batch()).states[0]
    found = []
    for draw in islice(gibbs(model, data, torch.Generator().manual_seed(0)), 600):
        order = matched(draw.states, path, K)
        now = values(model)
        found.append((now["mean"][order], now["transmat"][order][:, order]))
    means, moves = (torch.stack(v[100:]) for v in map(list, zip(*found, strict=True)))
    posterior = q.emission.posterior
    sd = (posterior.scale / posterior.dof[:, None] / posterior.beta[:, None]).sqrt()
    assert ((means.mean(0) - posterior.means).abs() < 0.25 * sd).all()
    assert (means.std(0) / sd - 1).abs().max() < 0.2
    alpha = q.transition.transmat_posterior
    assert (moves.mean(0) - alpha / alpha.sum(1, keepdim=True)).abs().max() < 0.01


def test_frozen_parameters_and_zeros_of_the_chain_stay() -> None:
    data, g = two_states(60), torch.Generator().manual_seed(0)
    model = model_of("full", 2)
    with torch.no_grad():
        model.transition.transition_logits[1] = torch.tensor([-math.inf, 0.0], dtype=f64)
        model.emission.mean.copy_(torch.tensor([[0.0, 0.0], [3.0, -2.0]]))
    model.emission.frozen, model.transition.frozen = frozenset({"mean"}), frozenset({"initial"})
    before = values(model)
    list(islice(gibbs(model, data, g), 5))
    after = values(model)
    assert torch.equal(after["mean"], before["mean"])
    assert torch.equal(after["startprob"], before["startprob"])
    assert not torch.equal(after["covariance"], before["covariance"])
    assert after["transmat"][1].tolist() == [0.0, 1.0]


def test_frozen_means_leave_the_covariance_its_own_posterior() -> None:
    """Around a given mean Σ is IW(ν + 1 + n, Ψ + Σ (x − μ)(x − μ)ᵀ + weight (μ − m)(μ − m)ᵀ)."""
    data = observed("full")
    x = data.x[data.observed.all(1)]
    model = model_of("full", 1)
    model.emission.frozen = frozenset({"mean"})
    found = torch.stack([
        values(model)["covariance"][0] for _ in islice(gibbs(model, data, torch.Generator().manual_seed(3)), 500)
    ])[1:]  # fmt: skip
    exact = (SCALE + x.T @ x + WEIGHT * torch.outer(MEAN, MEAN)) / (NU + 1 + len(x) - D - 1)
    assert ((found.mean(0) - exact).abs() <= 5 * found.std(0) / math.sqrt(len(found))).all()


@pytest.mark.parametrize(
    ("emission", "message"),
    [
        (gaussian.DiagonalGaussian(torch.zeros(2, D), torch.ones(2, D)), "means_weight"),
        (emissions.FullGaussian(torch.zeros(2, D), torch.eye(D).expand(2, D, D),
                               gaussian.GaussianPrior(0.0, 1.0, 1.0, 4.0)), "degrees of freedom"),
        (emissions.Poisson(torch.ones(2, D)), "rate"),
    ],
)  # fmt: skip
def test_an_improper_prior_is_refused_by_name(emission: emissions.Emission, message: str) -> None:
    half = torch.full((2,), 0.5, dtype=f64)
    model = HMM(Stationary(half, half.expand(2, 2).clone()), emission.double())
    data = Sequences.from_any(np.array([[0.0, 1.0]] * 4))
    with pytest.raises(ValueError, match=message):
        list(islice(gibbs(model, data, torch.Generator().manual_seed(0)), 2))


def test_what_it_cannot_draw_is_said() -> None:
    half = torch.full((2,), 0.5, dtype=f64)
    ones = torch.ones(2, D, dtype=f64)
    model = HMM(Stationary(half, half.expand(2, 2).clone()), emissions.StudentT(ones, ones, 3.0))
    data = Sequences.from_any(np.zeros((4, D)))
    with pytest.raises(TypeError, match="StudentT has no conjugate prior"):
        list(islice(gibbs(model, data, torch.Generator().manual_seed(0)), 2))
    with pytest.raises(ValueError, match="weights other than 1"):
        next(gibbs(model, data.replace(weights=torch.tensor([2.0])), torch.Generator().manual_seed(0)))
    tied = PartlyFixed(half, half.expand(2, 2).clone(), torch.eye(2).bool())
    with pytest.raises(TypeError, match="not PartlyFixed"):
        list(islice(gibbs(HMM(tied, gaussians("diag", 2)), data, torch.Generator().manual_seed(0)), 2))
