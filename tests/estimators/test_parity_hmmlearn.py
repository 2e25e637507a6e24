"""hmmlearn as the oracle: the same start, the same data, the same numbers all the way, for 84 random models.

Left out is only where hmmlearn is wrong: scalar covars_prior on full and tied matrices, the Poisson prior, the
score of "map" decoding, history without its last value.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import hmmlearn.hmm
import hmmlearn.vhmm
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import dbn_vae

N_ITER = 8
CHAIN = ("startprob_", "transmat_")


def simplex(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.dirichlet(np.full(shape[-1], 2.0), shape[:-1])


def gaussian_start(covariance_type: str, rng: np.random.Generator, K: int, D: int) -> dict[str, np.ndarray]:
    root = rng.normal(size=(K, D, 2 * D))
    full = root @ root.mT / (2 * D) + 0.3 * np.eye(D)
    covars = {
        "spherical": rng.uniform(0.5, 2, K),
        "diag": rng.uniform(0.5, 2, (K, D)),
        "full": full,
        "tied": full[0],
    }
    return {"means_": 2 * rng.normal(size=(K, D)), "covars_": covars[covariance_type]}


def categorical_start(rng: np.random.Generator, K: int, D: int) -> dict[str, np.ndarray]:
    return {"emissionprob_": simplex(rng, K, D + 2)}


def poisson_start(rng: np.random.Generator, K: int, D: int) -> dict[str, np.ndarray]:
    return {"lambdas_": rng.gamma(2.0, 3.0, (K, D))}


Start = Callable[[np.random.Generator, int, int], dict[str, np.ndarray]]
FAMILIES: dict[str, tuple[str, dict[str, Any], Start]] = {
    **{
        c: (
            "GaussianHMM",
            {"covariance_type": c, "covars_prior": 0, "min_covar": 0},
            partial(gaussian_start, c),
        )
        for c in ("diag", "spherical", "full", "tied")
    },
    "categorical": ("CategoricalHMM", {}, categorical_start),
    "multinomial": ("MultinomialHMM", {"n_trials": 5}, categorical_start),
    "poisson": ("PoissonHMM", {}, poisson_start),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
SEEDS = range(12)  # times seven families, each twelve pairs of states and columns


class Twins:
    """One random problem, and a model of each package at the same random start."""

    def __init__(self, family: str, seed: int, **options: Any) -> None:
        rng = np.random.default_rng([seed, 1, *map(ord, family)])
        self.K, self.D = 1 + seed % 4, 1 + seed // 4 % 3
        name, own, start = FAMILIES[family]
        K = self.K
        truth = {"startprob_": simplex(rng, K), "transmat_": simplex(rng, K, K)} | start(rng, K, self.D)
        begin = {"startprob_": simplex(rng, K), "transmat_": simplex(rng, K, K)} | start(rng, K, self.D)
        settings: dict[str, Any] = {"n_iter": N_ITER, "tol": -np.inf, "init_params": ""} | own | options
        self.theirs = getattr(hmmlearn.hmm, name)(K, **settings)
        self.ours = getattr(dbn_vae, name)(K, **settings)
        self.attributes = [*CHAIN, *(a for a in begin if a not in CHAIN)]
        # ragged on purpose, down to one frame, and long enough that no covariance matrix comes near singular
        self.lengths = [*rng.integers(60, 120, 3).tolist(), 1, 2]
        self.theirs.n_features = self.D + 2 if family in ("categorical", "multinomial") else self.D
        put(self.theirs, truth)
        self.X = np.concatenate(
            [self.theirs.sample(n, random_state=int(rng.integers(1 << 30)))[0] for n in self.lengths]
        )
        put(self.theirs, begin)
        put(self.ours, begin)

    def fit(self) -> "Twins":
        self.theirs.fit(self.X, self.lengths)
        self.ours.fit(self.X, self.lengths)
        return self

    def assert_same_parameters(self, case: str = "") -> None:
        for name in self.attributes:
            theirs = getattr(self.theirs, name)
            if name == "covars_" and self.theirs.covariance_type == "spherical":
                theirs = theirs[
                    :: len(theirs) // self.K
                ]  # once fitted, hmmlearn gives each state's matrix D times
            assert_allclose(getattr(self.ours, name), theirs, rtol=1e-6, atol=1e-9, err_msg=f"{name} {case}")

    def log_joint(self, path: np.ndarray) -> float:
        """log p(path, X), added up by hand."""
        emission = self.theirs._compute_log_likelihood(self.X)[np.arange(len(self.X)), path].sum()
        first = np.cumsum(self.lengths) - self.lengths
        moves = np.setdiff1d(np.arange(1, len(path)), first)
        chain = np.log(self.theirs.startprob_[path[first]]).sum()
        return float(emission + chain + np.log(self.theirs.transmat_[path[moves - 1], path[moves]]).sum())


def put(model: Any, values: dict[str, np.ndarray]) -> None:
    for name, value in values.items():
        setattr(model, name, value)


@pytest.mark.some(4)
@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_every_iteration_of_em(family: str, seed: int) -> None:
    twins = Twins(family, seed).fit()
    theirs, ours = list(twins.theirs.monitor_.history), twins.ours.monitor_.history
    assert len(theirs) == N_ITER
    assert_allclose(ours[:-1], theirs, rtol=1e-8, err_msg="log-likelihood before each update")
    assert_allclose(
        ours[-1], twins.theirs.score(twins.X, twins.lengths), rtol=1e-8, err_msg="the value ours adds"
    )
    twins.assert_same_parameters()


@pytest.mark.some(4)
@every_family
@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_at_the_same_parameters(family: str, seed: int) -> None:
    """No fit in between: scores, posteriors, paths, information criteria, stationary distribution."""
    twins = Twins(family, seed)
    ours, theirs, data = twins.ours, twins.theirs, (twins.X, twins.lengths)
    assert_allclose(ours.score(*data), theirs.score(*data), rtol=1e-10)
    (a, gamma), (b, posteriors) = ours.score_samples(*data), theirs.score_samples(*data)
    assert_allclose(a, b, rtol=1e-10)
    assert_allclose(gamma, posteriors, atol=1e-10)
    assert_allclose(ours.predict_proba(*data), posteriors, atol=1e-10)
    (a, path), (b, states) = ours.decode(*data), theirs.decode(*data)
    assert_allclose(a, b, rtol=1e-10, err_msg="score of the Viterbi path")
    assert_array_equal(ours.predict(*data), path)
    # among symbols and counts two paths may tie exactly, and either is right
    assert_allclose(twins.log_joint(path), b, rtol=1e-10, err_msg="joint probability of the path itself")
    if family in ("categorical", "poisson", "multinomial"):
        assert (path == states).mean() > 0.9
    else:
        assert_array_equal(path, states)
    score, steps = ours.decode(*data, algorithm="map")
    assert_array_equal(steps, theirs.decode(*data, algorithm="map")[1])
    assert_allclose(score, twins.log_joint(steps), rtol=1e-10, err_msg="joint probability of the map path")
    assert_allclose(ours.aic(*data), theirs.aic(*data), rtol=1e-10)
    assert_allclose(ours.bic(*data), theirs.bic(*data), rtol=1e-10)
    assert_allclose(ours.get_stationary_distribution(), theirs.get_stationary_distribution(), atol=1e-10)


@pytest.mark.parametrize("seed", [3, 6])  # four states, and three with two columns
@pytest.mark.parametrize(
    ("family", "prior"),
    [
        *((f, {"startprob_prior": 2.5, "transmat_prior": 1.7}) for f in FAMILIES),
        ("diag", {"covars_prior": 0.4, "covars_weight": 3.0}),
        ("diag", {"means_prior": 0.7, "means_weight": 5.0, "covars_prior": 0.4, "covars_weight": 2.0}),
        ("spherical", {"means_prior": -1.0, "means_weight": 2.0, "covars_prior": 0.2}),
        ("full", {"means_prior": 1.5, "means_weight": 4.0}),
        ("tied", {"means_prior": 1.5, "means_weight": 4.0}),
    ],
)  # fmt: skip
def test_priors(family: str, prior: dict[str, Any], seed: int) -> None:
    twins = Twins(family, seed, **prior).fit()
    assert_allclose(twins.ours.monitor_.history[:-1], list(twins.theirs.monitor_.history), rtol=1e-8)
    twins.assert_same_parameters()


def test_array_priors() -> None:
    """A sticky prior, one row favouring its own state."""
    prior = 1 + 20 * np.eye(3)
    seed = next(s for s in range(99) if Twins("diag", s).K == 3)
    twins = Twins("diag", seed, transmat_prior=prior, startprob_prior=np.array([1.0, 2.0, 3.0])).fit()
    twins.assert_same_parameters()


@pytest.mark.parametrize("letters", ["s", "t", "m", "st", "sm", "tm", "stm", "mc", "stmc"])
def test_only_the_letters_in_params_are_learnt(letters: str) -> None:
    """Sets with c and without m are left out: there hmmlearn loses its statistics."""
    twins = Twins("diag", 5, params=letters).fit()
    twins.assert_same_parameters()


@pytest.mark.parametrize("tol", [1e-1, 1e-3])
def test_stopping_is_hmmlearns(tol: float) -> None:
    """As many updates, and the same parameters at the end, where tol decides."""
    for seed in range(5):
        twins = Twins("diag", seed, tol=tol, n_iter=60).fit()
        updates = len(twins.theirs.monitor_.history)
        assert twins.ours.monitor_.iter == updates, f"seed {seed}"
        twins.assert_same_parameters(f"seed {seed}")
        assert twins.ours.monitor_.converged == (updates < 60)


def test_bernoulli_of_one_feature_is_a_categorical_of_two_symbols() -> None:
    rng = np.random.default_rng(8)
    p = np.array([[0.2], [0.7], [0.95]])
    start, moves = simplex(rng, 3), simplex(rng, 3, 3)
    X, lengths = rng.integers(0, 2, (60, 1)), [25, 1, 34]
    ours = dbn_vae.BernoulliHMM(3, init_params="", n_iter=N_ITER, tol=-np.inf)
    theirs = hmmlearn.hmm.CategoricalHMM(3, init_params="", n_iter=N_ITER, tol=-np.inf)
    put(ours, {"startprob_": start, "transmat_": moves, "emissionprob_": p})
    put(theirs, {"startprob_": start, "transmat_": moves, "emissionprob_": np.hstack([1 - p, p])})
    assert_allclose(ours.decode(X, lengths)[0], theirs.decode(X, lengths)[0], rtol=1e-10)
    ours.fit(X, lengths)
    theirs.fit(X, lengths)
    assert_allclose(ours.monitor_.history[:-1], list(theirs.monitor_.history), rtol=1e-8)
    assert_allclose(ours.emissionprob_, theirs.emissionprob_[:, 1:], rtol=1e-6)
    assert_allclose(ours.predict_proba(X, lengths), theirs.predict_proba(X, lengths), atol=1e-8)


# -- mixtures


class AboutTheNewMean(hmmlearn.hmm.GMMHMM):
    """hmmlearn takes the scatter about the means of the step before, not the maximum: N (μ − μ_old)² too much."""

    def _do_mstep(self, stats: dict[str, Any]) -> None:
        old, covars = self.means_.copy(), self.covars_.copy()
        super()._do_mstep(stats)
        if "c" not in self.params or "m" not in self.params:
            return
        shift, n = self.means_ - old, stats["post_mix_sum"]
        outer = n[..., None, None] * shift[..., :, None] * shift[..., None, :]
        D = shift.shape[-1]
        # a component's own scatter is centred: Σ γ (x − μ_old) is n shift without a prior on the means
        excess = {
            "full": lambda: outer / n[..., None, None],
            "diag": lambda: np.diagonal(outer, axis1=-2, axis2=-1) / n[..., None],
            "spherical": lambda: np.trace(outer, axis1=-2, axis2=-1) / (D * n),
            "tied": lambda: outer.sum(1) / n.sum(1)[:, None, None],
        }[self.covariance_type]()
        assert covars.shape == self.covars_.shape
        self.covars_ = self.covars_ - excess


def mixtures(kind: str, seed: int, **options: Any) -> tuple[Any, Any, np.ndarray, list[int]]:
    """Theirs and ours at one random start, and data of three groups."""
    rng = np.random.default_rng([seed, *map(ord, kind)])
    K, M, D = 1 + seed % 2, 1 + seed // 2 % 2, 1 + seed % 3  # more components than groups would collapse
    lengths = [*rng.integers(80, 140, 3).tolist(), 1, 2]
    n = sum(lengths)
    X = 2.5 * rng.normal(size=(4, D))[rng.integers(0, 4, n)] + rng.normal(size=(n, D))
    root = rng.normal(size=(K, M, D, 2 * D))
    full = root @ root.mT / (2 * D) + 0.5 * np.eye(D)
    covars = {
        "spherical": rng.uniform(0.5, 2, (K, M)),
        "diag": rng.uniform(0.5, 2, (K, M, D)),
        "full": full,
        "tied": full[:, 0],
    }[kind]
    begin = {
        "startprob_": simplex(rng, K),
        "transmat_": simplex(rng, K, K),
        "weights_": simplex(rng, K, M),
        "means_": 2 * rng.normal(size=(K, M, D)),
        "covars_": covars,
    }
    settings = {"covariance_type": kind, "n_iter": N_ITER, "tol": -np.inf, "init_params": ""} | options
    # theirs: no prior of a sphere is −(D + 2) / 2, where hmmlearn's default has n_mix in place of D
    none = {"covars_prior": -(D + 2) / 2} if kind == "spherical" else {}
    theirs = AboutTheNewMean(K, M, **(none | settings))
    ours = dbn_vae.GMMHMM(K, M, min_covar=0, **settings)
    for model in (theirs, ours):
        put(model, {name: value.copy() for name, value in begin.items()})
    return theirs, ours, X, lengths


kinds = pytest.mark.parametrize("kind", ["diag", "spherical", "full", "tied"])


@pytest.mark.some(4)
@kinds
@pytest.mark.parametrize("letters", ["stmcw", "stmw", "stcw", "w"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_iteration_of_a_mixture(kind: str, letters: str, seed: int) -> None:
    """With means or covariances frozen hmmlearn's own steps; with both free, those with its centring mended."""
    theirs, ours, X, lengths = mixtures(kind, seed, params=letters)
    theirs.fit(X, lengths)
    ours.fit(X, lengths)
    assert_allclose(ours.monitor_.history[:-1], list(theirs.monitor_.history), rtol=1e-8)
    for name in (*CHAIN, "weights_", "means_", "covars_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-9, err_msg=name)


@kinds
def test_every_answer_of_a_mixture(kind: str) -> None:
    for seed in range(5):
        theirs, ours, X, lengths = mixtures(kind, seed)
        assert_allclose(ours.score(X, lengths), theirs.score(X, lengths), rtol=1e-10)
        assert_allclose(ours.predict_proba(X, lengths), theirs.predict_proba(X, lengths), atol=1e-10)
        assert_array_equal(ours.predict(X, lengths), theirs.predict(X, lengths))


@pytest.mark.parametrize(
    ("kind", "prior"),
    [
        ("diag", {"covars_prior": 1.5, "covars_weight": 0.7}),
        ("spherical", {"covars_prior": 1.5, "covars_weight": 0.7}),
        ("full", {"covars_weight": 3.0}),
        ("tied", {"covars_weight": 3.0}),
        ("diag", {"weights_prior": 2.5}),
        ("full", {"means_prior": 0.4, "means_weight": 3.0, "params": "stmw"}),
    ],
)
def test_priors_of_a_mixture(kind: str, prior: dict[str, Any]) -> None:
    for seed in (1, 3):
        theirs, ours, X, lengths = mixtures(kind, seed, **({"params": "stcw"} | prior))
        theirs.fit(X, lengths)
        ours.fit(X, lengths)
        assert_allclose(ours.monitor_.history[:-1], list(theirs.monitor_.history), rtol=1e-8)


def test_one_component_is_a_gaussian() -> None:
    for kind in ("diag", "spherical", "full", "tied"):
        _, ours, X, lengths = mixtures(kind, 2)
        K = ours.n_components
        mixture = dbn_vae.GMMHMM(K, 1, covariance_type=kind, init_params="", n_iter=5, tol=-np.inf)
        gaussian = dbn_vae.GaussianHMM(K, kind, covars_prior=0, init_params="", n_iter=5, tol=-np.inf)
        chain = {"startprob_": ours.startprob_, "transmat_": ours.transmat_}
        put(gaussian, chain | {"means_": ours.means_[:, 0]})
        covars = ours.covars_[:, 0] if kind != "tied" else ours.covars_[0]
        gaussian.covars_ = covars
        own = np.repeat(covars[None], K, 0) if kind == "tied" else covars[:, None]
        put(mixture, chain | {"means_": ours.means_[:, :1], "weights_": np.ones((K, 1)), "covars_": own})
        assert_allclose(mixture.score(X, lengths), gaussian.score(X, lengths), rtol=1e-12)
        if kind != "tied":  # hmmlearn's tied is one matrix for all states in one class, for each in the other
            assert_allclose(
                mixture.fit(X, lengths).monitor_.history,
                gaussian.fit(X, lengths).monitor_.history,
                rtol=1e-10,
            )


# -- the face


SHARED = [
    "GMMHMM",
    "MultinomialHMM",
    "GaussianHMM",
    "CategoricalHMM",
    "PoissonHMM",
    "VariationalGaussianHMM",
    "VariationalCategoricalHMM",
]


def peer(name: str) -> Any:
    return getattr(hmmlearn.vhmm if name.startswith("Variational") else hmmlearn.hmm, name)


@pytest.mark.parametrize("name", SHARED)
def test_constructors_take_the_same_arguments(name: str) -> None:
    """Names, order, defaults and kinds; what is ours alone is keyword-only."""
    theirs = inspect.signature(peer(name)).parameters
    ours = inspect.signature(getattr(dbn_vae, name)).parameters
    shared = [p for p in ours if p in theirs]
    assert shared == list(theirs)
    for p in theirs:
        assert (ours[p].default, ours[p].kind) == (theirs[p].default, theirs[p].kind), p
    assert all(ours[p].kind is inspect.Parameter.KEYWORD_ONLY for p in ours if p not in theirs)


@pytest.mark.parametrize("name", SHARED)
def test_verbs_take_the_same_arguments(name: str) -> None:
    """By name; and by position, where y of fit and score is lengths if it can be nothing else."""
    theirs, ours = peer(name), getattr(dbn_vae, name)
    verbs = (
        "fit", "score", "score_samples", "decode", "predict", "predict_proba", "sample", "aic", "bic",
        "get_stationary_distribution",
    )  # fmt: skip
    for verb in verbs:
        if name.startswith("Variational") and verb in ("aic", "bic", "get_stationary_distribution"):
            continue  # hmmlearn's variational models lack them
        expected = [(p.name, p.default) for p in inspect.signature(getattr(theirs, verb)).parameters.values()]
        found = inspect.signature(getattr(ours, verb)).parameters.values()
        plain = [(p.name, p.default) for p in found if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        if verb in ("fit", "score"):
            assert ("lengths", None) in [(p.name, p.default) for p in found], verb
            plain = [("lengths" if name == "y" else name, default) for name, default in plain]
        assert plain == expected, verb


CLASSICAL = [*SHARED, "BernoulliHMM"]


@pytest.mark.parametrize("name", CLASSICAL)
def test_fit_changes_no_constructor_parameter(name: str) -> None:
    stream = np.random.RandomState(3)
    model = getattr(dbn_vae, name)(2, random_state=stream, n_iter=3, transmat_prior=np.full((2, 2), 1.5))
    before = dict(model.get_params())
    model.fit(np.random.default_rng(0).integers(0, 2, (30, 1)))
    after = model.get_params()
    assert all(after[p] is before[p] for p in before), "a parameter was replaced"
    twin = clone(model)
    assert not hasattr(twin, "transmat_")
    assert type(model)(**twin.get_params()).get_params().keys() == before.keys()


@pytest.mark.parametrize("name", CLASSICAL)
def test_set_params_is_heard_by_the_next_fit(name: str) -> None:
    """In hmmlearn the monitor keeps the n_iter of the constructor."""
    X = np.random.default_rng(0).integers(0, 2, (60, 1))
    model = getattr(dbn_vae, name)(2, n_iter=2, tol=-np.inf, random_state=0).fit(X)
    assert model.monitor_.iter == 2
    assert model.set_params(n_iter=5).fit(X).monitor_.iter == 5


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize(
    "ask",
    ["score", "score_samples", "decode", "predict", "predict_proba", "filter", "aic", "bic", "evaluate"],
)
def test_an_unfitted_model_says_so(name: str, ask: str) -> None:
    with pytest.raises(NotFittedError, match=f"{name} has no parameters yet: call fit"):
        getattr(getattr(dbn_vae, name)(2), ask)(np.zeros((5, 1)))


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("ask", ["sample", "get_stationary_distribution", "n_parameters"])
def test_an_unfitted_model_says_so_without_data_too(name: str, ask: str) -> None:
    with pytest.raises(NotFittedError, match=f"{name} has no parameters yet: call fit"):
        getattr(getattr(dbn_vae, name)(2), ask)()


@every_family
def test_sampling_needs_no_fit_either(family: str) -> None:
    """Attributes set by hand are a model: its samples have the frequencies that the attributes say."""
    twins = Twins(family, 0)
    X, states = twins.ours.sample(4000, random_state=1)
    assert X.shape == (4000, twins.X.shape[1])
    counts = np.zeros((twins.K, twins.K))
    np.add.at(counts, (states[:-1], states[1:]), 1)
    error = np.sqrt(0.25 / np.maximum(counts.sum(1, keepdims=True), 1))
    assert (np.abs(counts / counts.sum(1, keepdims=True) - twins.ours.transmat_) < 5 * error).all()
