"""Compiled updates of EM against the modules' own, which define them."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from dbn_vae import Sequences
from dbn_vae.emissions import Categorical, DiagonalGaussian, FullGaussian
from dbn_vae.emissions.gaussian import GaussianPrior
from dbn_vae.inference import using
from dbn_vae.inference.backends import available
from dbn_vae.models.hmm import HMM
from dbn_vae.training import compiled, em
from dbn_vae.training.em import expect
from dbn_vae.transitions import Stationary

pytestmark = pytest.mark.skipif("cpu" not in available, reason="installed without the compiled engine")
K, D, V = 3, 2, 5
FROZEN = [(), ("initial",), ("transition",), ("mean",), ("covariance", "probs"), ("initial", "mean", "probs")]


def problem(family: str, seed: int, frozen: tuple[str, ...] = ()) -> tuple[HMM, Sequences]:
    """A random model with priors, exact zeros and a floor that holds, and ragged, weighted, incomplete data."""
    rng = np.random.default_rng(seed)
    A = rng.dirichlet(np.ones(K), K)
    A[0, 2] = 0.0
    chain = Stationary(
        torch.tensor(rng.dirichlet(np.ones(K))), torch.tensor(A / A.sum(1, keepdims=True)),
        torch.tensor(rng.uniform(0.5, 3, K)), torch.tensor(rng.uniform(0.5, 3, (K, K))),
    )  # fmt: skip
    lengths = [7, 1, 12, 4]
    if family == "categorical":
        B = rng.dirichlet(np.ones(V), K)
        B[1, 0] = 0.0
        emission = Categorical(
            torch.tensor(B / B.sum(1, keepdims=True)), torch.tensor(rng.uniform(0.5, 2, (K, V)))
        )
        x = rng.integers(V, size=(sum(lengths), 1)).astype(float)
    else:
        roots = rng.normal(size=(K, D, D))
        scale = rng.uniform(0, 0.1, D) if family == "gaussian" else 0.05 * roots @ roots.swapaxes(1, 2)
        prior = GaussianPrior(
            torch.tensor(rng.normal(size=(K, D))), torch.tensor(rng.uniform(0, 1, (K, 1))),
            torch.tensor(scale), float(rng.uniform(0, 2)),
        )  # fmt: skip
        mean, spread = torch.tensor(rng.normal(size=(K, D))), torch.tensor(rng.uniform(0.5, 2, (K, D)))
        floor = torch.tensor([0.6, 0.01]) if family == "gaussian" or seed % 2 else torch.full((2,), 1e-3)
        if family == "gaussian":
            emission = DiagonalGaussian(mean, spread, prior, floor)
        else:
            emission = FullGaussian(mean, torch.diag_embed(spread) + torch.tensor(scale), prior, floor)
        x = rng.normal(size=(sum(lengths), D)) * [0.7, 2]
    gaps = rng.random(x.shape) < 0.2
    x[gaps if family != "full" else gaps[:, :1] & (x == x)] = np.nan  # whole frames, or it is not compiled
    chain.frozen = emission.frozen = frozenset(frozen)
    data = Sequences.from_any(x, lengths, weights=rng.uniform(0.2, 2, len(lengths)))
    return HMM(chain, emission), data


@torch.no_grad()
def updates(model: HMM, data: Sequences) -> compiled.Compiled | None:
    return compiled.compiled(model, list(data.batches()))


def path(model: HMM, data: Sequences, updates: int = 12) -> list[torch.Tensor]:
    """Everything that can be seen of each update."""
    seen = []
    for i, step in enumerate(em(model, data)):
        held = getattr(model.emission, "held", torch.zeros(0)).double().clone() if i else torch.zeros(0)
        parameters = [
            (p.log_softmax(-1) if "logits" in n else p).flatten()
            for n, p in model.state_dict().items()
            if "floor" not in n
        ]
        numbers = torch.tensor([step.log_likelihood, step.objective], dtype=torch.float64)
        seen.append(torch.cat([numbers, step.visits, held.flatten(), *parameters]))
        if i == updates:
            return seen
    raise AssertionError


@pytest.mark.some(4)
@pytest.mark.parametrize("frozen", FROZEN, ids=str)
@pytest.mark.parametrize("family", ["gaussian", "full", "categorical"])
def test_every_update_is_that_of_the_modules(family: str, frozen: tuple[str, ...]) -> None:
    for seed in range(3):
        quick, data = problem(family, seed, frozen)
        assert updates(quick, data) is not None
        plain, _ = problem(family, seed, frozen)
        with using("reference"):
            assert updates(plain, data) is None
            expected = path(plain, data)
        for got, want in zip(path(quick, data), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_drawn_problems_ask_for_everything() -> None:
    """Floors that hold and zeros: or the comparison above says little."""
    held = []
    for seed in range(3):  # a covariance at its floor is left to the module, the others are not
        model, data = problem("full", seed)
        path(model, data)
        held.append(bool(model.emission.held.any()))
    assert any(held) and not all(held)
    model, data = problem("gaussian", 0)
    path(model, data)
    assert model.emission.held.any() and not model.emission.held.all()
    assert model.transition.log_transition()[0, 2] == -math.inf


@torch.no_grad()
@pytest.mark.parametrize("family", ["gaussian", "full", "categorical"])
def test_the_sums_are_those_of_the_modules(family: str) -> None:
    """What online EM goes on from, after a few updates."""
    model, data = problem(family, 3)
    assert updates(*problem(family, 3)) is not None
    *_, last = islice(em(model, data), 3)
    found, expected = last.sums, expect(model, data.batches())
    assert found.emission[0].shape == expected.emission[0].shape
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["gaussian", "full", "categorical"])
def test_a_state_nobody_visits_stays_as_it_is(family: str) -> None:
    models = [problem(family, 3)[0] for _ in range(2)]
    data = problem(family, 3)[1]
    for model in models:
        with torch.no_grad():
            model.transition.initial_logits.copy_(torch.tensor([0.0, -math.inf, 0.0]))
            model.transition.transition_logits[:, 1] = -math.inf
        model.transition.startprob_prior = model.transition.transmat_prior = 1.0
        if family != "categorical":
            model.emission.prior = GaussianPrior()
    with using("reference"):
        expected = path(models[0], data)
    for got, want in zip(path(models[1], data), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_data_and_variances_of_another_type_or_shape_are_not_misread() -> None:
    """Kernels read bare memory: symbols in float32 come with weights in float32."""
    model, data = problem("categorical", 2)
    expected = next(iter(em(model, data))).log_likelihood
    narrow = data.to(dtype=torch.float32)
    assert updates(model, narrow) is not None
    assert next(iter(em(model, narrow))).log_likelihood == pytest.approx(expected, rel=1e-6)
    shared = DiagonalGaussian(torch.zeros(K, D).double(), torch.ones(K, 1).double())
    model, data = problem("gaussian", 2)
    assert updates(HMM(model.transition, shared), data) is None


def test_an_impossible_sequence_is_named() -> None:
    model, _ = problem("categorical", 1)
    with torch.no_grad():
        model.emission.logits[:, 2] = -math.inf
    data = Sequences.from_any([[[0.0], [1.0]], [[2.0], [0.0]]])
    with pytest.raises(ValueError, match="sequence 1 is impossible"):
        next(iter(em(model, data)))
