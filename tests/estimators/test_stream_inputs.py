"""Streams whose frames come with inputs: what `posterior` says of the frames so far, and the sum over all paths."""

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from driven_chains import two_states
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from dbn_vae import HSMM, VAEHMM, EmissionHMM, GaussianHMM, emissions
from dbn_vae.models import HMM
from dbn_vae.models import HSMM as Module
from dbn_vae.transitions import CategoricalDuration, SemiMarkov, Stationary

K, D, U, N = 2, 2, 2, 9
RNG = np.random.default_rng(3)
X, INPUTS = RNG.normal(size=(N, D)), RNG.normal(size=(N, U))
X[2, 0], X[4], X[5, 1] = np.nan, np.nan, np.nan
LENGTHS = [5, 1, 3]


def tensor(*shape: int) -> torch.Tensor:
    return torch.as_tensor(RNG.normal(size=shape))


def covariance(n: int = K, width: int = D) -> torch.Tensor:
    root = tensor(n, width, width)
    return root @ root.mT + 0.3 * torch.eye(width)


def chain(driven: bool) -> Any:
    return two_states(RNG, U, driven)


def known(emission: Any, driven: bool) -> EmissionHMM:
    model = EmissionHMM(emission, chain(driven), random_state=0)
    model.model_ = HMM(model.transition, model.emission)
    return model


def semi(emission: Any) -> HSMM:
    model = HSMM(emission, max_duration=3, random_state=0)
    moves = Stationary(torch.tensor([0.3, 0.7]).double(), torch.tensor([[0.0, 1], [1, 0]]).double())
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]).double()
    model.model_ = Module(SemiMarkov(moves, CategoricalDuration(probs)), emission)
    return model


def regression(n: int = K, width: int = D) -> emissions.LinearRegression:
    return emissions.LinearRegression(tensor(n, width), 2 * tensor(n, width, U), covariance(n, width))


def autoregression(order: int = 2) -> emissions.Autoregressive:
    return emissions.Autoregressive(tensor(K, D), 0.4 * tensor(K, order, D, D), covariance())


MODELS: dict[str, Callable[[], Any]] = {
    "chain": lambda: known(emissions.FullGaussian(tensor(K, D), covariance()), True),
    "emission": lambda: known(regression(), False),
    "both": lambda: known(regression(), True),
    "mixture": lambda: known(
        emissions.Mixture(regression(2 * K), torch.tensor([[0.3, 0.7], [0.6, 0.4]]).double()), True
    ),
    "blocks": lambda: known(
        emissions.Product(
            [regression(K, 1), emissions.DiagonalGaussian(tensor(K, 1), torch.ones(K, 1).double())]
        ),
        False,
    ),
    "stays": lambda: semi(regression()),
    "past": lambda: known(autoregression(), False),
    "past and chain": lambda: known(autoregression(1), True),
    "stays and past": lambda: semi(autoregression()),
    "past beside inputs": lambda: known(
        emissions.Product(
            [
                emissions.Autoregressive(tensor(K, 1), 0.4 * tensor(K, 2, 1, 1), covariance(K, 1)),
                regression(K, 1),
            ]
        ),
        True,
    ),
}
every = pytest.mark.parametrize("name", MODELS)


@every
def test_a_stream_under_inputs_knows_what_the_posterior_says(name: str) -> None:
    model = MODELS[name]()
    u = INPUTS if model.n_inputs else None
    p = model.posterior(X, LENGTHS, inputs=u)
    for begin, end in pairwise(np.cumsum([0, *LENGTHS])):
        state, log_likelihood = model.filter_state(), 0.0
        for t in range(begin, end):
            now = None if u is None else u[t]
            if t == begin or model.model_.transition.n_inputs == 0:
                before = state.predict(1, inputs=None if u is None else u[t : t + 1])
            else:
                before = state.predict(1, inputs=u[t : t + 1])
            assert_allclose(before, p.predicted[t], atol=1e-12)
            assert_allclose(state.update(X[t], inputs=now), p.filtered[t], atol=1e-12)
            log_likelihood += p.log_scores[t]
            assert state.log_likelihood == pytest.approx(log_likelihood, rel=1e-12, abs=1e-12)
    nothing = np.full((4, D), np.nan)
    later = None if u is None else np.r_[u[-3:], INPUTS[:4]]
    ahead = model.posterior(np.r_[X[-3:], nothing], inputs=later).smoothed[-4:]
    found = [state.predict(h, inputs=None if u is None else INPUTS[:h]) for h in (1, 2, 3, 4)]
    assert_allclose(found, ahead, atol=1e-12)


def test_a_stream_of_a_driven_chain_is_the_sum_over_all_paths() -> None:
    """Softmax, regression and autoregression written out once more, frame after frame."""
    model = MODELS["both"]()
    chain, emission = model.model_.transition, model.model_.emission
    b, w, B, W = (p.detach().numpy() for p in (chain.initial_logits, chain.initial_slope,
                                               chain.transition_logits, chain.transition_slope))  # fmt: skip
    mean, slope, S = (p.detach().numpy() for p in (emission.mean, emission.slope, emission.covariance()))

    def log_softmax(a: np.ndarray) -> np.ndarray:
        return a - np.logaddexp.reduce(a, -1)[..., None]

    state = model.filter_state()
    for t in range(5):
        weights = np.zeros(K)
        for path in product(range(K), repeat=t + 1):
            log_p = log_softmax(b + w @ INPUTS[0])[path[0]]
            for i in range(1, t + 1):
                log_p += log_softmax(B + W @ INPUTS[i])[path[i - 1], path[i]]
            for i, k in enumerate(path):
                o = ~np.isnan(X[i])
                if o.any():
                    m = mean[k] + slope[k] @ INPUTS[i]
                    log_p += multivariate_normal(m[o], S[k][o][:, o]).logpdf(X[i, o])
            weights[path[-1]] += np.exp(log_p)
        assert_allclose(state.update(X[t], inputs=INPUTS[t]), weights / weights.sum(), atol=1e-12)
        assert state.log_likelihood == pytest.approx(np.log(weights.sum()), rel=1e-12)


def test_a_stream_does_not_look_ahead_and_branches_alone() -> None:
    """Two continuations of one stream: what the other one saw, or what comes later, changes nothing."""
    model = MODELS["past beside inputs"]()
    state = model.filter_state()
    for t in range(3):
        state.update(X[t], inputs=INPUTS[t])
    before, other = state.probs, state.copy()
    other.update([9.0, 9.0], inputs=[5.0, -5.0])
    assert_array_equal(state.probs, before)
    now = state.update(X[3], inputs=INPUTS[3])
    assert_allclose(now, model.filter(X[:4], inputs=INPUTS[:4])[-1], atol=1e-12)


def test_inputs_of_a_stream_are_asked_for_and_checked() -> None:
    driven = MODELS["both"]()
    state = driven.filter_state()
    with pytest.raises(
        ValueError, match=r"no frame was seen, and inputs drive the first state: use predict\(1"
    ):
        state.probs  # noqa: B018
    state.update(X[0], inputs=INPUTS[0])
    before = state.probs
    for wrong, words in (
        (
            None,
            r"inputs are not given, but this model reads 2 a frame: give those of the frame, of shape \(2,\)",
        ),
        (INPUTS[:1], r"inputs have shape \(1, 2\)"),
        ([np.nan, 0.0], "inputs hold NaN"),
        (["a", "b"], "inputs must hold numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            state.update(X[1], inputs=wrong)
    for wrong, words in (
        (None, r"inputs are not given.*give those of the next 3 frames, of shape \(3, 2\)"),
        (INPUTS[:2], r"inputs have shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            state.predict(3, inputs=wrong)
    assert_array_equal(state.probs, before)
    assert state.n_frames == 1
    plain = GaussianHMM(1).fit(np.arange(9.0)[:, None]).filter_state()
    for ask in (lambda: plain.update([1.0], inputs=[1.0]), lambda: plain.predict(1, inputs=[[1.0]])):
        with pytest.raises(ValueError, match="inputs are given, but this model reads none: leave them out"):
            ask()
    with pytest.raises(ValueError, match="inputs are not given"):
        MODELS["emission"]().filter_state().update(X[0])
    MODELS["emission"]().filter_state().predict(2)  # the states are not driven


class Wider(emissions.FullGaussian):
    """A family that appends a column and does not say what it reads."""

    n_context = 1


def test_a_family_that_does_not_say_what_it_reads_is_refused() -> None:
    model = known(Wider(tensor(K, D), covariance()), False)
    with pytest.raises(NotImplementedError, match=r"filter_state is not offered for Wider.*set Wider\.order"):
        model.filter_state()


def test_a_vae_hmm_streams_under_inputs() -> None:
    options: dict[str, Any] = {
        "hidden": (4,),
        "n_updates": 2,
        "n_pretrain": 2,
        "random_state": 0,
        "device": "cpu",
    }
    x = np.where(np.isnan(X), 0.0, X)
    model = VAEHMM(2, 1, **options).fit(x, inputs=INPUTS)
    with torch.no_grad():
        model.module_.transition.transition_slope.add_(torch.randn(2, 2, U))
    p, state = model.posterior(X, inputs=INPUTS), model.filter_state()
    assert_allclose(
        [state.update(a, inputs=v) for a, v in zip(X, INPUTS, strict=True)], p.filtered, atol=1e-5
    )
    with pytest.raises(ValueError, match="inputs are not given"):
        state.update(X[0])
