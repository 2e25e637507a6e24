"""How many states: the table says what the models say, nothing leaks out of a fold, published numbers are met."""

import math
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import log_joint
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm, poisson
from sklearn.exceptions import ConvergenceWarning

from dbn_vae import (
    HSMM,
    VAEHMM,
    BernoulliHMM,
    CategoricalHMM,
    EmissionHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    Sequences,
    VariationalGaussianHMM,
    inference,
    select,
)
from dbn_vae.datasets import load_earthquakes
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.estimators.selection import held_out
from dbn_vae.inference import Chain

RNG = np.random.default_rng(0)
GROUP = np.repeat(RNG.permutation([0, 1, 2] * 10), 6)
X = (RNG.normal(size=180) + 6 * GROUP)[:, None]
THREE = GaussianHMM(random_state=0, n_iter=100, tol=1e-4, n_init=2)


# -- the table


def test_the_table_says_what_the_models_say() -> None:
    chosen = select(THREE, X, [100, 80], n_components=[3, 1, 2], criterion="aic")
    assert chosen.table["states"].tolist() == [1, 2, 3]
    for _, row in chosen.table.iterrows():
        model = GaussianHMM(int(row["states"]), random_state=0, n_iter=100, tol=1e-4, n_init=2).fit(
            X, lengths=[100, 80]
        )
        assert row["log-likelihood"] == pytest.approx(model.score(X, lengths=[100, 80]), rel=1e-12)
        assert row["parameters"] == model.n_parameters()
        assert row["aic"] == pytest.approx(model.aic(X, [100, 80]), rel=1e-12)
        assert row["bic"] == pytest.approx(model.bic(X, [100, 80]), rel=1e-12)
    assert_array_equal(chosen.best.means_, model.means_)
    assert not hasattr(THREE, "means_"), "the model given stays unfitted"


def test_icl_pays_for_the_entropy_of_the_path() -> None:
    """By enumeration of all 2^8 paths: −2 E log p(x, s) + ν log n."""
    counts = np.array([1, 0, 4, 2, 5, 6, 1, 2])[:, None]
    chosen = select(PoissonHMM(random_state=0, n_iter=20), counts, n_components=[2])
    model = chosen.best
    chain = model.state_model().chain(Sequences.from_any(counts).only())
    _, score = log_joint(Chain(*(t.detach() for t in chain.dense()[:3]), chain.lengths), 0)
    score = score.numpy()
    expected = np.exp(score - logsumexp(score)) @ score
    assert chosen.table.loc[0, "icl"] == pytest.approx(
        -2 * expected + math.log(8) * model.n_parameters(), rel=1e-10
    )


@pytest.mark.parametrize("criterion", ["bic", "icl", "cv"])
@pytest.mark.parametrize("lengths", [None, [18] * 10])
def test_the_true_number_is_found(criterion: str, lengths: list[int] | None) -> None:
    chosen = select(THREE, X, lengths, n_components=range(1, 6), criterion=criterion)
    assert chosen.best.n_components == 3
    assert chosen.criterion == criterion
    figure = chosen.plot()
    assert figure.axes[0].get_xlabel() == "states"


def test_a_function_of_k_carries_what_depends_on_k() -> None:
    """Left to right: no other moves are free, and none is paid for."""

    def left_to_right(K: int) -> PoissonHMM:
        model = PoissonHMM(K, init_params="l", random_state=0, n_iter=30)
        model.startprob_ = np.eye(K)[0]
        model.transmat_ = 0.5 * np.eye(K) + 0.5 * np.eye(K, k=1)
        model.transmat_[-1, -1] = 1
        return model

    counts = RNG.poisson(np.repeat([2, 20, 8], 20))[:, None]
    chosen = select(left_to_right, counts, n_components=[2, 3, 4], criterion="cv", folds=3, block=4)
    assert chosen.table["parameters"].tolist() == [K + K - 1 for K in (2, 3, 4)]
    assert chosen.best.n_components == 3
    assert (chosen.best.transmat_[np.tril_indices(3, -1)] == 0).all()


# -- cross-validation


def test_each_frame_is_held_out_once() -> None:
    for lengths, folds, block in (([60], 5, 4), ([7, 50, 3], 4, 5), ([5] * 8, 3, 20), ([9], 9, 100)):
        data = Sequences.from_any(np.arange(1.0, sum(lengths) + 1)[:, None], lengths)
        seen = []
        for part in held_out(data, folds, block):
            held = set(part.whole.x.flatten().tolist()) - (
                set() if part.rest is None else set(part.rest.x[part.rest.observed].tolist())
            )
            trained = set(part.train.x[part.train.observed].tolist())
            assert not held & trained, "what is held out is not learnt from"
            assert held | trained == set(data.x.flatten().tolist())
            assert part.n_frames == len(held)
            seen += sorted(held)
        assert sorted(seen) == data.x.flatten().tolist()
    assert [p.n_frames for p in held_out(Sequences.from_any(np.zeros((100, 1))), 5, 10)] == [20] * 5


def test_one_state_is_scored_as_a_sample_of_one_distribution() -> None:
    """The Gaussian of the other frames, at the frames held out: any leak would raise it."""
    chosen = select(GaussianHMM(covars_prior=0), X, n_components=[1], criterion="cv", folds=4, block=9)
    fold = np.arange(180) // 9 % 4
    expected = sum(norm(X[fold != i].mean(), X[fold != i].std()).logpdf(X[fold == i]).sum() for i in range(4))
    assert chosen.table.loc[0, "cv"] == pytest.approx(expected / 180, rel=1e-10)


def test_a_held_out_frame_is_predicted_from_both_sides() -> None:
    """log p(x_t | all others) = log Σ_k p(s_t = k | all others) p(x_t | k)."""
    counts = RNG.poisson(np.repeat([2, 9], 8))[:, None].astype(float)
    parts = list(held_out(Sequences.from_any(counts), 16, 1))
    for t, part in enumerate(parts):
        model = PoissonHMM(2, random_state=0, n_iter=20).fit(part.train)
        gap = counts.copy()
        gap[t] = np.nan
        gamma = model.predict_proba(gap)[t]
        expected = math.log(gamma @ poisson(model.lambdas_[:, 0]).pmf(counts[t]))
        assert part.score(model) == pytest.approx(expected, abs=1e-9)


def test_whole_sequences_are_held_out_of_many() -> None:
    lengths = [18] * 10
    chosen = select(THREE, X, lengths, n_components=[1, 2], criterion="cv", folds=5)
    pieces = np.split(X, 10)
    values = np.zeros((2, 5))
    for K in (1, 2):
        for i in range(5):
            model = GaussianHMM(K, random_state=0, n_iter=100, tol=1e-4, n_init=2)
            model.fit([p for j, p in enumerate(pieces) if j % 5 != i])
            values[K - 1, i] = model.score([p for j, p in enumerate(pieces) if j % 5 == i])
    table = chosen.table
    assert_allclose(table["cv"], values.sum(1) / 180, rtol=1e-10)
    assert_allclose(table["cv s.e."], values.std(1, ddof=1) / np.sqrt(5) / 36, rtol=1e-10)
    behind = values[1] - values[0]
    assert table["cv behind"].tolist() == pytest.approx([behind.sum() / 180, 0])
    assert table.loc[0, "behind s.e."] == pytest.approx(behind.std(ddof=1) / np.sqrt(5) / 36)


def test_labels_in_a_held_out_block_are_hidden_too() -> None:
    data = Sequences.from_any(X, labels=GROUP)
    for part in held_out(data, 3, 10):
        hidden = ~part.train.observed[:, 0]
        assert part.train.labels is not None
        assert (part.train.labels[hidden] == -1).all()
        assert_array_equal(part.train.labels[~hidden], torch.as_tensor(GROUP)[~hidden])


def test_soft_labels_in_a_held_out_block_are_hidden_too() -> None:
    """A row that says nothing is one of zeros; as known states, so as soft ones of certainty."""
    soft = np.eye(3)[GROUP]
    data = Sequences.from_any(X, labels=soft)
    for part in held_out(data, 3, 10):
        hidden = ~part.train.observed[:, 0]
        assert part.train.labels is not None
        assert (part.train.labels[hidden] == 0).all()
        assert_array_equal(part.train.labels[~hidden].exp(), soft[~hidden.numpy()])
    known, certain = (
        select(THREE, Sequences.from_any(X, labels=y), n_components=[3], criterion="cv", folds=3, block=10)
        for y in (GROUP, soft)
    )
    assert_allclose(certain.table["cv"], known.table["cv"], rtol=1e-10)


# -- what is said


def test_a_best_at_the_edge_is_said() -> None:
    with pytest.warns(ConvergenceWarning, match=r"2 states, the most that were tried.*try more"):
        select(THREE, X, n_components=[1, 2])
    with pytest.warns(ConvergenceWarning, match=r"3 states, the fewest that were tried.*try fewer"):
        select(THREE, X, n_components=[3, 4])


def test_where_there_was_no_choice_none_is_doubted() -> None:
    """One number alone, given twice; and one state, which has no fewer."""
    one = RNG.normal(size=(60, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select(THREE, X, n_components=[3, 3]).table["states"].tolist() == [3]
        warnings.filterwarnings("ignore", message=".*explain less than one frame.*")
        assert select(THREE, one, n_components=[1, 2]).best.n_components == 1


def test_a_symbol_that_the_other_folds_lack_is_named() -> None:
    symbols = np.r_[RNG.integers(0, 2, 30), 2, RNG.integers(0, 2, 9)][:, None]
    with pytest.raises(ValueError, match="its symbols are 0 to 1; give n_features"):
        select(CategoricalHMM(random_state=0), symbols, [10] * 4, n_components=[1], criterion="cv", folds=4)


def test_warnings_of_each_fit_stand_in_the_table() -> None:
    with pytest.warns(ConvergenceWarning, match="of the chosen model with 3 states: it has not converged"):
        chosen = select(GaussianHMM(random_state=0, n_iter=2, tol=1e-9), X, n_components=[1, 2, 3, 4])
    assert "it has not converged" in chosen.table.loc[1, "warnings"]


def test_a_larger_model_that_fits_worse_is_said() -> None:
    def stuck(K: int) -> GaussianHMM:
        return GaussianHMM(K, random_state=0, n_iter=100 if K < 4 else 0)

    table = select(stuck, X, n_components=[2, 3, 4]).table
    assert "poor local maximum; raise n_init" in table.loc[2, "warnings"]
    assert "poor local maximum" not in table.loc[1, "warnings"]


def test_ctrl_c_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = GaussianHMM.fit

    def interrupted(self: GaussianHMM, *arguments: Any, **options: Any) -> GaussianHMM:
        if self.n_components == stop:
            raise KeyboardInterrupt
        return fit(self, *arguments, **options)

    monkeypatch.setattr(GaussianHMM, "fit", interrupted)
    stop = 4
    with pytest.warns(
        ConvergenceWarning, match=r"interrupted: of \[1, 2, 3, 4, 5\] only \[1, 2, 3\] are done"
    ):
        chosen = select(THREE, X, n_components=range(1, 6))
    assert chosen.table["states"].tolist() == [1, 2, 3]
    assert chosen.best.n_components == 3
    stop = 1
    with pytest.raises(KeyboardInterrupt):
        select(THREE, X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "dic"}, "criterion='dic'; it is one of aic, bic, icl, cv"),
        ({"n_components": [0, 1]}, "n_components=[0, 1]; give numbers of states from 1"),
        ({"n_components": []}, "n_components=[]"),
        ({"criterion": "cv", "folds": 1}, "folds=1; it must be a whole number from 2"),
        ({"criterion": "cv", "block": 0}, "block=0; it must be a whole number from 1"),
        ({"criterion": "cv", "folds": 500}, "folds=500, but X has 180 frames"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        select(THREE, X, **options)


def test_wrong_models_are_refused() -> None:
    for model in (VAEHMM(2), VariationalGaussianHMM(2), "GaussianHMM", lambda K: VAEHMM(K)):
        with pytest.raises(TypeError, match="has no exact likelihood"):
            select(model, X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("estimator(2) has n_components=3")):
        select(lambda K: GaussianHMM(3), X, n_components=[2])
    for weights in ([2.0], np.linspace(0, 2, 180)):
        with pytest.raises(ValueError, match="carries weights"):
            select(THREE, Sequences.from_any(X, weights=weights))


# -- free parameters, and what data cannot tell


@pytest.mark.parametrize("K", [1, 2, 3])
def test_symbols_that_the_data_lack_are_parameters_and_feel_the_prior(K: int) -> None:
    symbols = RNG.integers(0, 3, (60, 1))
    counts = np.hstack([RNG.multinomial(4, [0.5, 0.5], 60), np.zeros((60, 1))])
    for model, data, V in (
        (CategoricalHMM(K, n_features=5, random_state=0), symbols, 5),
        (MultinomialHMM(K, random_state=0), counts, 3),
    ):
        assert model.fit(data).n_parameters() == K - 1 + K * (K - 1) + K * (V - 1)
        assert (model.emissionprob_[:, -1] == 0).all()
        model.set_params(emissionprob_prior=2.0).fit(data)
        visits = model.predict_proba(data).sum(0) * (1 if V == 5 else 4)
        assert (model.emissionprob_[:, -1] > 0.5 / (visits + V)).all()


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (CategoricalHMM(2, n_features=4), RNG.integers(0, 3, (40, 1)), r"no state ever gives symbols \[3\]"),
        (MultinomialHMM(2), np.eye(3)[RNG.integers(0, 2, 40)], r"no state ever gives symbols \[2\]"),
        (PoissonHMM(2), np.c_[RNG.poisson(3, 40), np.zeros(40)], r"columns \[1\] have rate 0 in every state"),
        (
            BernoulliHMM(2),
            np.c_[RNG.integers(0, 2, 40), np.ones(40)],
            r"columns \[1\] are the same for certain",
        ),
    ],
)
def test_what_no_state_can_give_is_said(model: Any, data: np.ndarray, words: str) -> None:
    with pytest.warns(ConvergenceWarning, match=words + ".*prior"):
        model.set_params(random_state=0).fit(data)
    prior = "lambdas_prior" if isinstance(model, PoissonHMM) else "emissionprob_prior"
    model.set_params(n_iter=500, tol=1e-2, **{prior: 2.0}).fit(data)
    new = data.copy().astype(float)
    new[0] = {1: [3]}.get(data.shape[1], 1 - np.eye(data.shape[1])[0])
    if isinstance(model, BernoulliHMM):
        new[0] = 0
    if isinstance(model, MultinomialHMM):
        new[0] = [0, 0, 1]
    assert math.isfinite(model.score(new)), "the remedy works"


# -- published: Zucchini, MacDonald and Langrock (2016), Hidden Markov Models for Time Series, earthquakes


@pytest.fixture
def counts() -> np.ndarray:
    folder = os.environ.get("DBN_VAE_DATA")
    if not folder or not (Path(folder) / "earthquakes.csv").exists():
        pytest.skip("earthquakes.csv is not in the folder DBN_VAE_DATA")
    return load_earthquakes()[1][:, None].astype(float)


def test_earthquakes_with_a_free_start(counts: np.ndarray) -> None:
    model = PoissonHMM(random_state=0, n_init=8, n_iter=2000, tol=1e-9)
    table = select(model, counts, n_components=[1, 2, 3, 4], criterion="aic").table
    assert_allclose(-table["log-likelihood"][:3], [391.9189, 341.8787, 328.5275], atol=5e-5)
    assert table["parameters"].tolist() == [1, 5, 11, 19]
    best = {k: int(table.loc[table[k].idxmin(), "states"]) for k in ("aic", "bic")}
    assert best == {"aic": 3, "bic": 2}


@pytest.mark.parametrize(
    ("K", "published", "rates"),
    [(2, 342.3183, [15.472, 26.125]), (3, 329.4603, [13.146, 19.721, 29.714]), (4, 327.8316, None)],
)
def test_earthquakes_from_the_stationary_distribution(
    counts: np.ndarray, K: int, published: float, rates: list[float] | None
) -> None:
    """Their direct maximum, whose chain starts in its stationary distribution: our log Z, climbed by its gradient."""
    model = PoissonHMM(K, random_state=0, n_init=8, n_iter=200, tol=1e-6).fit(counts).sort_states()

    def minus_log_likelihood(theta: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.tensor(theta, requires_grad=True)
        logits, log_rates = free[K:].reshape(K, K), free[:K]
        log_A = logits.log_softmax(1)
        # π (I − A + 1) = 1, one equation for every state
        system = torch.eye(K) - log_A.exp() + 1
        pi = torch.linalg.solve(system.T, torch.ones(K, dtype=free.dtype))
        x = torch.as_tensor(counts)
        potential = x * log_rates - log_rates.exp() - torch.lgamma(x + 1)
        value = -inference.log_partition(Chain(pi.log(), log_A, potential[None]))[0]
        (slope,) = torch.autograd.grad(value, free)
        return value.item(), slope.numpy()

    A = (model.transmat_ + 0.01) / (1 + 0.01 * K)
    start = np.concatenate([np.log(model.lambdas_[:, 0]), np.log(A).ravel()])
    found = minimize(
        minus_log_likelihood, start, jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 2000}
    )
    assert found.fun == pytest.approx(published, abs=5e-4)
    if rates:
        assert_allclose(np.sort(np.exp(found.x[:K])), rates, atol=1e-3)


def test_modules_are_chosen_by_a_function() -> None:
    """A Gaussian HMM by either door gives one table; the states of a template are not select's to change."""
    X = RNG.normal(size=(150, 1)) + 6 * np.repeat(RNG.integers(0, 2, 30), 5)[:, None]
    floor = torch.as_tensor(1e-3 * X.var(0))
    zeros, options = torch.zeros(4, 1).double(), {"n_iter": 60, "tol": 1e-6, "random_state": 0}

    def module(K: int) -> EmissionHMM:
        return EmissionHMM(DiagonalGaussian(zeros[:K], 1 + zeros[:K], floor=floor), **options)

    def classical(K: int) -> GaussianHMM:
        return GaussianHMM(K, covars_prior=0, **options)

    ours, theirs = (select(make, X, n_components=(1, 2), criterion="icl") for make in (module, classical))
    columns = ["states", "log-likelihood", "parameters", "aic", "bic", "icl"]
    pd.testing.assert_frame_equal(ours.table[columns], theirs.table[columns], rtol=1e-6)
    assert isinstance(ours.best, EmissionHMM) and ours.best.n_components == 2
    with pytest.raises(
        TypeError, match="the states of EmissionHMM are those of its emission; give a function"
    ):
        select(module(2), X)


def test_semi_markov_models_are_chosen_too_but_not_by_the_paths_entropy() -> None:
    X = RNG.normal(size=(80, 1)) + 6 * np.repeat([0, 1, 0, 1], 20)[:, None]
    zeros = torch.zeros(3, 1).double()

    def make(K: int) -> HSMM:
        emission = DiagonalGaussian(zeros[:K], 1 + zeros[:K], floor=torch.tensor([0.1]))
        return HSMM(emission, "poisson", max_duration=25, n_init=1, n_iter=5, random_state=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert select(make, X, n_components=(2, 3)).best.n_components == 2
        with pytest.raises(ValueError, match="criterion='icl' needs the entropy of the path"):
            select(make, X, n_components=(2,), criterion="icl")
