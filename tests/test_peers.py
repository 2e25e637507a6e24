"""Known defects of other packages, one test each: their formula gives a wrong number, ours the right one.

hmmlearn is called.  Of packages that are not installed the formula is restated, as their source has it, and is
shown to fail before ours is asked.
"""

import itertools
import math
from typing import Any

import hmmlearn.hmm
import hmmlearn.vhmm
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import enumerate_filter, enumerate_posterior, log_joint, random_chain
from torch import Tensor

from dbn_vae import CategoricalHMM, GaussianHMM, PoissonHMM, VariationalGaussianHMM, inference
from dbn_vae.inference import Chain

FLOATS = [torch.float64, torch.float32]


def log(probs: list[Any]) -> Tensor:
    return torch.tensor(probs, dtype=torch.float64).log()


def chain_of(initial: list[Any], transition: list[Any], log_emission: list[Any]) -> Chain:
    emission = torch.tensor([log_emission], dtype=torch.float64)
    A = log(transition)
    return Chain(log(initial), A[None] if A.dim() == 3 else A, emission)


def put(model: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(model, name, np.asarray(value, dtype=float))
    return model


def as_type(chain: Chain, dtype: torch.dtype) -> Chain:
    return Chain(*(t.to(dtype) for t in chain[:3]), None)


# -- filters and smoothers of dynamax


@pytest.mark.parametrize("dtype", FLOATS)
def test_d1_dynamax_clamps_small_probabilities_up(dtype: torch.dtype) -> None:
    """Two states that never mix, each impossible in turn but for e⁻⁶⁰ and e⁻⁵⁰: 1e-15 is far too much."""
    chain = chain_of([0.5, 0.5], [[1, 0], [0, 1]], [[0, -50], [-60, 0]])
    predicted, peer = np.array([0.5, 0.5]), 0.0
    for step in chain.log_emission[0].numpy():
        u = predicted * np.exp(step - step.max())
        u = np.where(u == 0, 0, np.where(u < 1e-15, 1e-15, u))
        peer += np.log(u.sum()) + step.max()
        predicted = u / u.sum()
    (truth,) = enumerate_posterior(chain)[0]
    assert truth == pytest.approx(-50 + math.log(0.5), rel=1e-4)
    assert abs(peer - truth) > 10
    typed = as_type(chain, dtype)
    for log_z in (
        inference.log_partition(typed),
        inference.filter(typed).log_z,
        inference.smooth(typed).log_z,
    ):
        assert float(log_z) == pytest.approx(float(truth), rel=1e-6 if dtype == torch.float32 else 1e-14)


MOVES = [[[0.9, 0.1], [0.1, 0.9]], [[0.2, 0.8], [0.7, 0.3]]]


def test_d2_dynamax_samples_paths_by_the_move_after() -> None:
    """p(s_t | s_{t+1}) ∝ filtered_t A_t, but their backward pass reads A_{t+1}."""
    chain = chain_of([0.6, 0.4], MOVES, [[0.0, -0.5], [-1.0, 0.0], [0.0, -2.0]])
    filtered = inference.filter(chain).probs[0].numpy()
    peer = filtered[2]
    for t in (1, 0):
        backward = filtered[t][:, None] * np.array(MOVES[min(t + 1, 1)])
        peer = (backward / backward.sum(0)) @ peer
    gamma = enumerate_posterior(chain)[1][0].numpy()
    assert abs(peer - gamma[0]).max() > 0.2
    n = 20_000
    paths = inference.sample(chain, n, torch.Generator().manual_seed(0))[:, 0].numpy()
    error = np.sqrt(gamma * (1 - gamma) / n)
    assert (abs(np.stack([paths == 0, paths == 1], -1).mean(0) - gamma) < 5 * error).all()


def test_d3_dynamax_smooths_with_unscaled_likelihoods() -> None:
    """exp(−2000) is 0, and so is every posterior made of it."""
    chain = chain_of([0.6, 0.4], MOVES, [[-2000, -2001], [-2001, -2000], [-2000, -2002]])
    likelihood = chain.log_emission[0].exp().numpy()
    peer = np.array(MOVES[0]) @ (likelihood[1] * (np.array(MOVES[1]) @ likelihood[2]))
    assert (peer == 0).all(), "their backward messages"
    log_z, gamma, xi = inference.smooth(chain)
    truth = enumerate_posterior(chain)
    for ours, theirs in zip((log_z, gamma, xi), truth, strict=True):
        assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("dtype", FLOATS)
def test_d4_dynamax_drops_rare_jumps(dtype: torch.dtype) -> None:
    """A jump of probability 1e-10 that the data force has the expected count 1."""
    rare = 1e-10
    chain = chain_of([1, 0], [[1 - rare, rare], [0, 1]], [[0, -100], [0, -100], [-100, 0], [-100, 0]])
    filtered, smoothed = inference.filter(chain).probs[0], inference.smooth(chain).gamma[0]
    A, peer = chain.log_transition.exp(), torch.zeros(2, 2, dtype=torch.float64)
    for t in range(3):
        predicted = filtered[t] @ A
        ratio = torch.where(predicted < 1e-8, 0.0, smoothed[t + 1] / predicted)
        peer += filtered[t][:, None] * A * ratio
    truth = [[1.0, 1.0], [0.0, 1.0]]
    assert peer[0, 1] < 1e-3
    assert_allclose(inference.smooth(as_type(chain, dtype)).xi[0], truth, atol=1e-5)


# -- recursions with one shift a step


@pytest.mark.parametrize("dtype", FLOATS)
def test_d5_pomegranate_underflows_where_states_are_apart(dtype: torch.dtype) -> None:
    """log(exp(a − max a) @ A): the second state's e⁻²⁰⁰ is 0 in float32, and then the first pays −450."""
    chain = chain_of([0.5, 0.5], [[1, 0], [0, 1]], [[0, -200], [-450, 0]])
    initial, transition, emission, _ = as_type(chain, torch.float32)
    a = initial + emission[0, 0]
    peer = torch.logsumexp(((a - a.max()).exp() @ transition.exp()).log() + a.max() + emission[0, 1], 0)
    (truth,), gamma, _ = enumerate_posterior(chain)
    assert float(peer) < -400 < float(truth)
    typed = as_type(chain, dtype)
    assert float(inference.log_partition(typed)) == pytest.approx(float(truth), rel=1e-6)
    assert_allclose(inference.smooth(typed).gamma, gamma, atol=1e-6)


def test_d6_pomegranate_charges_for_the_end() -> None:
    """The probabilities of all sequences of one length sum to 1; with their factor 1/K for the end, to 1/K."""
    rng = np.random.default_rng(0)
    A, B = rng.dirichlet([1, 1], 2), rng.dirichlet([1, 1, 1], 2)
    model = put(CategoricalHMM(2), startprob_=[0.3, 0.7], transmat_=A, emissionprob_=B)
    every = np.array(list(itertools.product(range(3), repeat=4)), dtype=float)[..., None]
    total = model.evaluate(every).per_sequence.exp().sum()
    peer = (model.evaluate(every).per_sequence + math.log(1 / 2)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)
    assert float(peer) == pytest.approx(0.5, abs=1e-12)


def test_d7_pomegranate_samples_with_the_variance_for_a_deviation() -> None:
    """And keeps a smallest variance that it never uses."""
    model = put(GaussianHMM(1), startprob_=[1], transmat_=[[1]], means_=[[0]], covars_=[[9]])
    x = model.sample(20_000, random_state=0)[0]
    peer = np.random.default_rng(0).normal(0, model.covars_.item(), 20_000)
    error = 3 / math.sqrt(2 * len(x))
    assert abs(peer.std() - 3) > 100 * error
    assert abs(x.std() - 3) < 5 * error
    X = np.r_[np.zeros((50, 1)), np.linspace(9, 11, 50)[:, None]]
    fitted = GaussianHMM(2, min_covar=0.05, covars_prior=0, random_state=0).fit(X)
    assert fitted.covars_.min() == pytest.approx(0.05 * X.var(), rel=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
def test_d8_pyro_shifts_a_product_once_a_row(dtype: torch.dtype) -> None:
    x, y = torch.tensor([[0.0, -200]]), torch.tensor([[-200.0], [0]])
    shift_x, shift_y = x.amax(-1, keepdim=True), y.amax(-2, keepdim=True)
    peer = ((x - shift_x).exp() @ (y - shift_y).exp()).log() + shift_x + shift_y
    assert peer.item() == -math.inf
    chain = Chain(x[0], torch.eye(2).log(), torch.stack([torch.zeros(2), y[:, 0]])[None])
    truth = math.log(2) - 200
    assert float(inference.log_partition(as_type(chain, dtype))) == pytest.approx(truth, rel=1e-6)


# -- hmmlearn


def two_groups(seed: int = 0, n: int = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(-3, 1, (n, 1)), rng.normal(3, 1, (n, 1))])


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_d9_hmmlearns_bound_is_above_the_evidence(covariance_type: str) -> None:
    """One state, one feature: the evidence is that of a normal-gamma, in closed form; the bound must be that."""
    X = np.random.default_rng(0).normal(2, 1.5, (200, 1))
    m, beta, dof, scale, n = X.mean(), 1.0, 1.0, 1e-3, len(X)
    spread = scale + np.square(X - X.mean()).sum()  # the prior's mean is the data's
    evidence = math.lgamma((dof + n) / 2) - math.lgamma(dof / 2) + 0.5 * dof * math.log(scale)
    evidence += 0.5 * math.log(beta / (beta + n)) - 0.5 * (dof + n) * math.log(spread)
    evidence -= 0.5 * n * math.log(math.pi)
    bound = {}
    for package in (hmmlearn.vhmm.VariationalGaussianHMM, VariationalGaussianHMM):
        model = package(1, covariance_type, random_state=0).fit(X)
        bound[package] = model.monitor_.history[-1]
        assert model.means_.item() == pytest.approx(m, rel=1e-12)
    missing = n / 2 * math.log(2 * math.pi)
    assert bound[hmmlearn.vhmm.VariationalGaussianHMM] == pytest.approx(evidence + missing, rel=1e-9)
    assert bound[VariationalGaussianHMM] == pytest.approx(evidence, rel=1e-12)


def test_d10_hmmlearn_learns_covariances_without_means_from_nothing() -> None:
    """params="c": the variance around the given means."""
    X, variances = two_groups(), {}
    for package in (hmmlearn.hmm.GaussianHMM, GaussianHMM):
        model = package(2, params="c", init_params="", n_iter=10, covars_prior=0, tol=1e-9)
        put(model, startprob_=[0.5, 0.5], transmat_=[[0.9, 0.1], [0.1, 0.9]], means_=[[-3], [3]])
        model.covars_ = np.ones((2, 1))
        variances[package] = model.fit(X).covars_.ravel()
        assert_array_equal(model.means_, [[-3], [3]])
    around = [np.square(X[:100] + 3).mean(), np.square(X[100:] - 3).mean()]
    assert variances[hmmlearn.hmm.GaussianHMM].max() > 1e6
    assert_allclose(variances[GaussianHMM], around, rtol=0.02)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_d11_hmmlearn_adds_the_prior_to_every_entry(covariance_type: str) -> None:
    """Twenty small points of correlation −0.2 come out correlated +0.8."""
    X = 0.01 * np.random.default_rng(3).multivariate_normal([0, 0], [[1, -0.4], [-0.4, 1]], 20)
    found = {}
    for package in (hmmlearn.hmm.GaussianHMM, GaussianHMM):
        C = package(1, covariance_type, random_state=0).fit(X).covars_[0]
        found[package] = C[0, 1] / math.sqrt(C[0, 0] * C[1, 1])
    empirical = np.corrcoef(X.T)[0, 1]
    assert empirical < 0 < 0.5 < found[hmmlearn.hmm.GaussianHMM]
    assert empirical < found[GaussianHMM] < 0, "shrunk to 0, not past it"


def test_d12_hmmlearn_lets_a_variance_fall_to_nothing() -> None:
    X = np.concatenate([np.zeros((50, 1)), np.random.default_rng(0).normal(10, 1, (50, 1))])
    theirs = hmmlearn.hmm.GaussianHMM(2, min_covar=0.5, covars_prior=0, random_state=0, n_iter=20).fit(X)
    ours = GaussianHMM(2, min_covar=0.5 / X.var(), covars_prior=0, random_state=0, n_iter=20).fit(X)
    assert theirs.covars_.min() < 1e-3
    assert ours.covars_.min() == pytest.approx(0.5, rel=1e-9)


def test_d13_hmmlearn_adds_up_posteriors_for_a_log_probability() -> None:
    X = two_groups()
    theirs = hmmlearn.hmm.GaussianHMM(2, random_state=0, n_iter=20).fit(X)
    ours = put(GaussianHMM(2), startprob_=theirs.startprob_, transmat_=theirs.transmat_, means_=theirs.means_)
    ours.covars_ = theirs.covars_[:, 0]
    assert theirs.decode(X, algorithm="map")[0] > 0, "no probability is above 1"
    score, states = ours.decode(X, algorithm="map")
    emission = theirs._compute_log_likelihood(X)[np.arange(len(X)), states].sum()
    with np.errstate(divide="ignore"):
        moves = np.log(theirs.transmat_)[states[:-1], states[1:]].sum()
        assert score == pytest.approx(emission + moves + np.log(theirs.startprob_)[states[0]], rel=1e-10)


def test_d14_hmmlearn_counts_what_is_not_free() -> None:
    """Weights of mixtures once for all states; zeros of the start and frozen parameters as if they were free."""
    theirs = hmmlearn.hmm.GMMHMM(3, n_mix=4)
    theirs.n_features = 2
    assert theirs._get_n_fit_scalars_per_param()["w"] == 3 != 3 * (4 - 1)
    counted = {}
    for package in (hmmlearn.hmm.CategoricalHMM, CategoricalHMM):
        model = package(3, params="te", init_params="", n_iter=1, tol=-np.inf)
        put(model, startprob_=[1, 0, 0], transmat_=[[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]])
        model.emissionprob_ = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
        X = model.fit(np.array([[0], [1], [2], [1], [2], [0]])).sample(9, random_state=0)[0].astype(int)
        counted[package] = (model.aic(X) + 2 * model.score(X)) / 2
    # two moves from each of the first two states, none frozen; 1 + 2 + 2 of the emissions
    assert counted[CategoricalHMM] == pytest.approx(2 + 5)
    assert counted[hmmlearn.hmm.CategoricalHMM] == pytest.approx(2 + 6 + 6)


def test_d15_hmmlearn_divides_a_rate_by_all_frames() -> None:
    """Two states that the first column tells apart: λ = (a + Σ x) / (b + n) with each state's own n."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.poisson(1, (90, 1)), rng.poisson(60, (10, 1))])
    a, b, rates = 5.0, 4.0, {}
    for package in (hmmlearn.hmm.PoissonHMM, PoissonHMM):
        model = package(
            2, lambdas_prior=a, lambdas_weight=b, params="l", init_params="", n_iter=30, tol=-np.inf
        )
        put(model, startprob_=[1, 0], transmat_=[[0.9, 0.1], [0, 1]], lambdas_=[[1], [60]])
        rates[package] = model.fit(X).lambdas_.ravel()
    expected = [(a + X[:90].sum()) / (b + 90), (a + X[90:].sum()) / (b + 10)]
    assert_allclose(rates[PoissonHMM], expected, rtol=1e-6)
    assert abs(rates[hmmlearn.hmm.PoissonHMM] / expected - 1).max() > 0.2
    nothing = np.zeros((20, 1), dtype=int)
    with np.errstate(invalid="ignore"):
        assert np.isnan(hmmlearn.hmm.PoissonHMM(2, random_state=0).fit(nothing).lambdas_).all()
    assert (PoissonHMM(2, random_state=0).fit(nothing).lambdas_ == 0).all()


def test_d16_hmmlearn_hears_no_set_params() -> None:
    X, updates = two_groups(), {}
    for package in (hmmlearn.hmm.GaussianHMM, GaussianHMM):
        model = package(2, n_iter=3, tol=-np.inf, random_state=np.random.RandomState(0))
        given = model.random_state
        updates[package] = len(model.set_params(n_iter=7).fit(X).monitor_.history)
        assert model.random_state is given
    counts = abs(X).round().astype(int)
    theirs = hmmlearn.hmm.PoissonHMM(2, random_state=0).fit(counts)
    assert theirs.random_state != 0, "a constructor parameter that fit overwrote"
    assert PoissonHMM(2, random_state=0).fit(counts).random_state == 0
    assert updates == {hmmlearn.hmm.GaussianHMM: 3, GaussianHMM: 7 + 1}


def test_d17_hmmlearn_ends_its_history_before_its_fit() -> None:
    X = two_groups()
    theirs = hmmlearn.hmm.GaussianHMM(2, n_iter=2, tol=1e-9, random_state=1).fit(X)
    ours = GaussianHMM(2, n_iter=1, n_init=1, tol=1e-9, random_state=2).fit(X)
    assert theirs.monitor_.history[-1] != pytest.approx(theirs.score(X), rel=1e-6)
    assert theirs.monitor_.converged, "at the cap of two updates"
    assert ours.monitor_.history[-1] == pytest.approx(ours.score(X), rel=1e-12)
    assert not ours.monitor_.converged


def test_d17_hmmlearn_leaves_a_row_of_zeros_to_a_state_nobody_visits() -> None:
    rows, X = {}, np.random.default_rng(0).integers(0, 2, (30, 1))
    for package in (hmmlearn.hmm.CategoricalHMM, CategoricalHMM):
        model = package(2, init_params="", n_iter=3)
        put(model, startprob_=[1, 0], transmat_=[[1, 0], [0.3, 0.7]], emissionprob_=[[0.5, 0.5], [0.2, 0.8]])
        rows[package] = model.fit(X).transmat_[1]
        if package is CategoricalHMM:
            assert np.isfinite(model.score(X))
        else:
            with pytest.raises(ValueError, match="rows must sum to 1"):
                model.score(X)
    assert_array_equal(rows[hmmlearn.hmm.CategoricalHMM], [0, 0])
    assert_allclose(rows[CategoricalHMM], [0.3, 0.7], rtol=1e-12)


def test_d18_hmmlearn_ends_where_it_happens_to_begin() -> None:
    truth = put(GaussianHMM(3), startprob_=[1, 0, 0], means_=[[-2], [0], [2]])
    truth.transmat_, truth.covars_ = np.full((3, 3), 0.05) + 0.85 * np.eye(3), np.ones((3, 1))
    X = truth.sample(300, random_state=0)[0]
    ends: dict[type, list[float]] = {}
    for package in (hmmlearn.hmm.GaussianHMM, GaussianHMM):
        options = {"n_iter": 100, "tol": 1e-4, "covars_prior": 0}
        ends[package] = [package(3, random_state=s, **options).fit(X).score(X) for s in range(20)]
    best = max(max(e) for e in ends.values())
    reached = {package: sum(e > best - 0.1 for e in values) for package, values in ends.items()}
    assert reached[hmmlearn.hmm.GaussianHMM] < 15
    assert reached[GaussianHMM] >= 19


def test_d24_hmmlearn_decodes_what_is_impossible() -> None:
    impossible, chain = [[0], [1], [1]], {"startprob_": [0.5, 0.5], "transmat_": np.eye(2)}
    theirs = put(hmmlearn.hmm.CategoricalHMM(2), **chain, emissionprob_=np.eye(2))
    ours = put(CategoricalHMM(2), **chain, emissionprob_=np.eye(2))
    with np.errstate(invalid="ignore"):
        assert np.isnan(theirs.predict_proba(impossible)).all()
    assert len(theirs.decode(impossible)[1]) == 3, "a path of probability 0, and not a word"
    assert ours.score(impossible) == theirs.score(impossible) == -np.inf
    for verb in (ours.predict_proba, ours.decode, ours.predict, ours.filter):
        with pytest.raises(ValueError, match="sequence 0 is impossible under the model"):
            verb(impossible)
    with pytest.raises(IndexError):
        theirs.score([[0], [2]])
    with pytest.raises(ValueError, match=r"X holds 2.*symbols are 0 to 1; give n_features"):
        ours.score([[0], [2]])


# -- ssm


def test_d19_ssm_walks_through_forbidden_moves() -> None:
    """log(A + 1e-16) is −37 where it should be −∞."""
    chain = chain_of([1, 0], [[0.5, 0.5], [0, 1]], [[0, -100], [-100, 0], [0, -50]])
    initial, transition, emission, _ = chain
    soft = Chain(initial, (transition.exp() + 1e-16).log(), emission)
    assert inference.viterbi(soft).states[0].tolist() == [0, 1, 0], "1 → 0 is forbidden"
    path = inference.viterbi(chain)
    every, score = log_joint(chain, 0)
    assert path.states[0].tolist() == every[score.argmax()].tolist() == [0, 1, 1]
    assert float(path.score) == pytest.approx(float(score.max()), rel=1e-12)


def test_d20_ssm_calls_a_prediction_a_filter() -> None:
    """p(s_t | x_{1:t−1}) has not seen x_t."""
    chain = random_chain(3, 5, 3, seed=0)
    truth = enumerate_filter(chain)
    filtered = inference.filter(chain).probs
    assert_allclose(filtered, truth, atol=1e-10)
    initial, transition, *_ = chain.canonical()
    peer = torch.cat([initial.exp()[:, None], filtered[:, :-1] @ transition.exp()], 1)
    assert (peer - truth)[chain.mask()].abs().max() > 0.1


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_d21_ssm_learns_from_what_is_masked(covariance_type: str) -> None:
    """Their weighted mean does not know the mask, so a hidden value of a million moves it; NaN cannot."""
    rng = np.random.default_rng(0)
    X = two_groups(1) + rng.normal(size=(200, 2))
    hidden = rng.random(X.shape) < 0.2
    garbage = np.where(hidden, 1e6, X)
    assert np.ones(200) @ garbage[:, 0] / 200 > 1e4
    model = GaussianHMM(1, covariance_type, covars_prior=0, n_iter=500, tol=1e-12)
    means = model.fit(np.where(hidden, np.nan, X)).means_[0]
    if covariance_type == "diag":
        assert_allclose(means, np.nanmean(np.where(hidden, np.nan, X), 0), rtol=1e-9)
    assert abs(means - X.mean(0)).max() < 0.5


@pytest.mark.parametrize("covariance_type", ["diag", "spherical", "full", "tied"])
def test_d21_a_sequence_of_weight_0_leaks_nothing(covariance_type: str) -> None:
    """Neither into the start, nor into the floor of the variance, nor into the M-step."""
    X = np.hstack([two_groups(1), two_groups(2)])
    garbage = np.full((30, 2), 1e4)
    fits = [
        GaussianHMM(2, covariance_type, random_state=0, n_init=3, n_iter=20).fit(data, sample_weight=weight)
        for data, weight in (([X, garbage], [1, 0]), ([X], [1]))
    ]
    for name in ("means_", "covars_", "transmat_", "startprob_"):
        assert_allclose(*(getattr(model, name) for model in fits), rtol=1e-9, atol=1e-12, err_msg=name)


# -- tests that cannot fail


@pytest.mark.parametrize(
    "seed", [pytest.param(i, marks=[pytest.mark.thorough] * (i >= 12)) for i in range(50)]
)
def test_d22_hmmlearns_test_of_em_passes_if_any_step_goes_up(seed: int) -> None:
    """diff.max() > eps holds for a likelihood that falls but once; diff.min() is the claim."""
    falling = np.array([0.0, -5.0, -4.0])
    assert np.diff(falling).max() > 0 > np.diff(falling).min()
    rng = np.random.default_rng(seed)
    K, kind = int(rng.integers(1, 4)), ["diag", "spherical", "full", "tied"][seed % 4]
    X = rng.normal(size=(40, 2)) + 2 * rng.integers(0, 3, (40, 1))
    X[rng.random(X.shape) < 0.1 * (seed % 3)] = np.nan
    model = GaussianHMM(K, kind, covars_prior=0, n_iter=30, tol=-np.inf, n_init=1, random_state=seed)
    steps = np.diff(model.fit(X, [15, 25]).monitor_.history)
    assert (steps >= -1e-9 * abs(model.monitor_.history[-1])).all(), steps.min()


def test_d23_dynamaxs_tests_accept_what_is_a_tenth_off() -> None:
    """atol = 0.1 lets the prior pass for the posterior of this chain; ours is held to 1e-10, by enumeration."""
    chain = random_chain(2, 5, 2, seed=0, scale=0.05)
    truth = enumerate_posterior(chain)[1]
    prior = inference.smooth(chain._replace(log_emission=torch.zeros_like(chain.log_emission))).gamma
    assert_allclose(prior, truth, atol=0.1)
    with pytest.raises(AssertionError):
        assert_allclose(prior, truth, atol=1e-10)
    assert_allclose(inference.smooth(chain).gamma, truth, atol=1e-10)
