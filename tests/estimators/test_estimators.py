"""Every estimator keeps the same promises; the deep ones are held to classical models they contain."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import linear_gaussian_core
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import dbn_vae
from dbn_vae import emissions
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.estimators import (
    GMMHMM,
    HSMM,
    VAE,
    VAEHMM,
    BernoulliHMM,
    CategoricalHMM,
    DeepMarkovModel,
    EmissionHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    SequenceEstimator,
    SwitchingDMM,
    VariationalCategoricalHMM,
    VariationalGaussianHMM,
)
from dbn_vae.evaluation import matched_accuracy
from dbn_vae.sequences import Sequences

LENGTHS = [23, 5, 17, 1, 14]
N = sum(LENGTHS)
ENDS = np.cumsum(LENGTHS)
STARTS = ENDS - LENGTHS
TINY: dict[str, Any] = {
    "hidden": (4,),
    "n_updates": 4,
    "n_pretrain": 2,
    "warm_up": 2,
    "n_samples": 5,
    "batch_size": 3,
    "max_length": 12,
}


def frames(kind: str) -> np.ndarray:
    """Two groups of frames, so that there is something to find."""
    rng = np.random.default_rng(5)
    group = np.repeat(rng.integers(0, 2, N // 4 + 1), 4)[:N, None]
    return {
        "real": rng.normal(size=(N, 3)) + 4 * group * [1, -1, 0],
        "symbols": np.where(rng.random((N, 1)) < 0.8, group, rng.integers(0, 4, (N, 1))).astype(float),
        "rows": np.where(
            group, rng.multinomial(6, [0.6, 0.3, 0.1], N), rng.multinomial(6, [0.1, 0.2, 0.7], N)
        ).astype(float),
        "counts": rng.poisson(1 + 8 * group * [1, 0.5]).astype(float),
        "binary": (rng.random((N, 3)) < 0.2 + 0.6 * group).astype(float),
    }[kind]


# name: what makes it, the data it takes.
CLASSICAL: dict[str, tuple[Callable[[], Any], str]] = {
    **{
        f"gaussian-{c}": (lambda c=c: GaussianHMM(2, c, random_state=0, n_iter=5, n_init=2), "real")
        for c in ("diag", "spherical", "full", "tied")
    },
    "categorical": (lambda: CategoricalHMM(2, n_features=4, random_state=0, n_iter=5, n_init=2), "symbols"),
    "poisson": (lambda: PoissonHMM(2, random_state=0, n_iter=5, n_init=2), "counts"),
    "bernoulli": (lambda: BernoulliHMM(2, random_state=0, n_iter=5, n_init=2), "binary"),
    "multinomial": (lambda: MultinomialHMM(2, 6, random_state=0, n_iter=5, n_init=2), "rows"),
    **{
        f"gmm-{c}": (lambda c=c: GMMHMM(2, 2, covariance_type=c, random_state=0, n_iter=5, n_init=2), "real")
        for c in ("diag", "spherical", "full", "tied")
    },
    **{
        f"variational-{c}": (
            lambda c=c: VariationalGaussianHMM(2, c, random_state=0, n_iter=5, n_init=2),
            "real",
        )
        for c in ("diag", "spherical", "full", "tied")
    },
    "emission": (
        lambda: EmissionHMM(
            emissions.StudentT(torch.zeros(2, 3).double(), torch.ones(2, 3).double(), 5.0),
            random_state=0,
            n_iter=5,
            n_init=2,
        ),
        "real",
    ),
    "variational-categorical": (
        lambda: VariationalCategoricalHMM(2, n_features=4, random_state=0, n_iter=5, n_init=2),
        "symbols",
    ),
}
DEEP: dict[str, tuple[Callable[[], Any], str]] = {
    "vae": (lambda: VAE(2, random_state=0, **TINY), "real"),
    "vae-binary": (lambda: VAE(2, likelihood="bernoulli", random_state=0, **TINY), "binary"),
    "vae-symbols": (lambda: VAE(2, likelihood="categorical", random_state=0, **TINY), "symbols"),
    "vae-counts": (lambda: VAE(2, likelihood="poisson", random_state=0, **TINY), "counts"),
    "vae-hmm": (lambda: VAEHMM(2, 2, random_state=0, **TINY), "real"),
    "vae-hmm-tied": (lambda: VAEHMM(2, 2, covariance="tied", random_state=0, **TINY), "real"),
    "vae-made": (lambda: VAE(2, likelihood="made", random_state=0, **TINY), "binary"),
    "dmm": (lambda: DeepMarkovModel(2, n_hidden=4, random_state=0, **TINY), "real"),
    "dmm-filtering": (
        lambda: DeepMarkovModel(2, inference="product-filter", n_hidden=4, random_state=0, **TINY),
        "real",
    ),
    "switching-dmm": (lambda: SwitchingDMM(2, 2, n_hidden=4, n_init=2, random_state=0, **TINY), "real"),
    "switching-dmm-filtering": (
        lambda: SwitchingDMM(
            2, 2, init="random", inference="product-filter", n_hidden=4, random_state=0, **TINY
        ),
        "real",
    ),
}
SEMI: dict[str, tuple[Callable[[], Any], str]] = {
    f"hsmm-{kind}": (
        lambda kind=kind: HSMM(
            DiagonalGaussian(torch.zeros(2, 3).double(), torch.ones(2, 3).double()),
            kind,
            max_duration=12,
            random_state=0,
            n_iter=3,
            n_init=2,
        ),
        "real",
    )
    for kind in ("categorical", "poisson", "negative_binomial")
}
ALL = CLASSICAL | SEMI | DEEP
STATEFUL = [*CLASSICAL, *SEMI, "vae-hmm", "vae-hmm-tied", "switching-dmm", "switching-dmm-filtering"]
FILTERS = [name for name in (*STATEFUL, "dmm-filtering") if name != "switching-dmm"]
every = pytest.mark.parametrize("name", ALL)
# one of each class: how data are read does not depend on its options
every_class = pytest.mark.parametrize(
    "name", {type(make()): name for name, (make, _) in ALL.items()}.values()
)
classical = pytest.mark.parametrize("name", CLASSICAL)
deep = pytest.mark.parametrize("name", DEEP)
# variational ones hold distributions of parameters: no counts, zeros or scores of a maximum; a module has no attributes
maximum = pytest.mark.parametrize(
    "name", [n for n in CLASSICAL if not n.startswith("variational") and n != "emission"]
)
stateful = pytest.mark.parametrize("name", STATEFUL)


@cache
def fitted(name: str) -> Any:
    """Once for all tests, which must leave it as it is."""
    make, kind = ALL[name]
    return make().fit(frames(kind), LENGTHS)


def data(name: str) -> np.ndarray:
    return frames(ALL[name][1])


def incomplete(name: str) -> np.ndarray:
    """An entry in eight missing, and a whole frame."""
    X = data(name)
    X[np.random.default_rng(1).random(X.shape) < 0.125] = np.nan
    X[7] = np.nan
    return X


def answers(model: Any, X: Any, lengths: Any = None) -> dict[str, Any]:
    """Everything a model says of data, by name."""
    found = {
        "score": model.score(X, lengths=lengths),
        "per sequence": model.evaluate(X, lengths).per_sequence.numpy(),
    }
    for verb in ("predict", "predict_proba", "transform", "reconstruct"):
        if hasattr(model, verb):
            found[verb] = np.asarray(getattr(model, verb)(X, lengths))
    return found


def assert_same(a: dict[str, Any], b: dict[str, Any], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for verb in a:
        if tolerance:
            assert_allclose(a[verb], b[verb], err_msg=verb, **tolerance)
        else:
            assert_array_equal(a[verb], b[verb], err_msg=verb)


def test_the_tables_hold_every_estimator() -> None:
    made = {type(make()) for make, _ in ALL.values()}
    exported = {getattr(dbn_vae.estimators, n) for n in dbn_vae.estimators.__all__} - {SequenceEstimator}
    assert made == exported


# -- promises of all


@pytest.mark.some(4)
@every
def test_a_loaded_model_says_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    model.save(tmp_path / "m.dbn")
    again: Any = dbn_vae.load(tmp_path / "m.dbn")
    assert type(again) is type(model)
    assert again.n_parameters() == model.n_parameters()
    assert_same(answers(again, incomplete(name), LENGTHS), answers(model, incomplete(name), LENGTHS))
    for a, b in zip(again.sample(20, random_state=1), model.sample(20, random_state=1), strict=True):
        assert_array_equal(a, b)
    history = "monitor_" if name not in DEEP else "history_"
    assert getattr(again, history) == getattr(model, history)


@pytest.mark.some(4)
@every
def test_the_same_random_state_gives_the_same_fit(name: str) -> None:
    """Whatever the global random state is, which a fit neither reads nor moves."""
    make, kind = ALL[name]
    torch.manual_seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = make().fit(frames(kind), LENGTHS)
    assert torch.equal(torch.get_rng_state(), before[0]), "a fit moved torch's global random state"
    assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert_same(answers(model, data(name), LENGTHS), answers(fitted(name), data(name), LENGTHS))


@pytest.mark.some(4)
@every
def test_asking_twice_gives_the_same_answer(name: str) -> None:
    assert_same(answers(fitted(name), data(name), LENGTHS), answers(fitted(name), data(name), LENGTHS))


@pytest.mark.some(4)
@every_class
def test_every_form_of_x_says_the_same(name: str) -> None:
    model, X = fitted(name), data(name)
    expected = answers(model, X, LENGTHS)
    listed = [X[a:b] for a, b in zip(STARTS, ENDS, strict=True)]
    assert_same(answers(model, listed), expected)
    assert_same(answers(model, torch.as_tensor(X), LENGTHS), expected)
    padded = np.full((len(LENGTHS), max(LENGTHS), X.shape[1]), np.nan)
    for row, x in zip(padded, listed, strict=True):
        row[: len(x)] = x
    assert_same(answers(model, padded, LENGTHS), expected)
    key = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    index = pd.MultiIndex.from_arrays([key, np.arange(N)], names=["sequence", "step"])
    assert_same(answers(model, pd.DataFrame(X, index)), expected)


@pytest.mark.some(4)
@every_class
def test_fit_takes_every_form_of_x(name: str) -> None:
    make, kind = ALL[name]
    X = frames(kind)
    listed = make().fit([X[a:b] for a, b in zip(STARTS, ENDS, strict=True)])
    assert_same(answers(listed, X, LENGTHS), answers(fitted(name), X, LENGTHS))


@every
def test_a_data_frame_comes_back_with_its_index(name: str) -> None:
    model, X = fitted(name), data(name)
    index = pd.date_range("2024-01-01", periods=N, name="day")
    frame = pd.DataFrame(X, index)
    verbs = {"predict": pd.Series, "predict_proba": pd.DataFrame, "filter": pd.DataFrame}
    verbs |= {"transform": pd.DataFrame, "reconstruct": pd.DataFrame}
    for verb, kind in verbs.items():
        if not hasattr(model, verb) or (verb == "filter" and name in ("dmm", "switching-dmm")):
            continue
        out = getattr(model, verb)(frame, LENGTHS)
        assert isinstance(out, kind), f"{verb} gives {type(out).__name__}"
        assert out.index.equals(index), verb
        assert_array_equal(out.to_numpy(), getattr(model, verb)(X, LENGTHS), err_msg=verb)


def test_a_data_frame_comes_back_from_one_state_too() -> None:
    frame = pd.DataFrame(data("gaussian-diag"))
    out = GaussianHMM(1, random_state=0).fit(frame).predict_proba(frame)
    assert isinstance(out, pd.DataFrame)
    assert out.shape == (N, 1)


@pytest.mark.some(4)
@every
def test_ragged_rows_keep_their_order(name: str) -> None:
    """Each sequence asked alone says what its rows said among the others: sorting by length stays inside."""
    model, X = fitted(name), incomplete(name)
    together = answers(model, X, LENGTHS)
    for b, (start, end) in enumerate(zip(STARTS, ENDS, strict=True)):
        alone = answers(model, X[start:end])
        for verb in set(alone) - {"score", "per sequence"}:
            assert_allclose(
                together[verb][start:end], alone[verb], rtol=1e-4, atol=1e-5, err_msg=f"{verb}, sequence {b}"
            )
        if name in CLASSICAL:
            assert together["per sequence"][b] == pytest.approx(alone["score"], rel=1e-12)


@classical
def test_the_score_of_a_list_is_the_sum(name: str) -> None:
    model, X = fitted(name), incomplete(name)
    alone = [model.score(X[a:b]) for a, b in zip(STARTS, ENDS, strict=True)]
    assert model.score(X, LENGTHS) == pytest.approx(sum(alone), rel=1e-12)
    assert model.evaluate(X, LENGTHS).kind == "exact"


@pytest.mark.some(4)
@every
def test_nan_is_taken_everywhere(name: str) -> None:
    make, _ = ALL[name]
    X = incomplete(name)
    model = make().fit(X, LENGTHS)
    for verb, value in answers(model, X, LENGTHS).items():
        assert np.isfinite(value).all(), verb


@pytest.mark.some(4)
@every
def test_a_missing_end_changes_nothing(name: str) -> None:
    """Frames of which nothing was observed, after the last one that was: the score is that of the data without them."""
    model, X = fitted(name), data(name)[:12]
    longer = np.vstack([X, np.full((4, X.shape[1]), np.nan)])
    if name not in DEEP:
        assert model.score(longer) == pytest.approx(model.score(X), rel=1e-12)
        assert_allclose(model.predict_proba(longer)[:12], model.predict_proba(X), atol=1e-12)
    else:
        # four frames would cost about 20 nats; the rest is Monte Carlo noise
        a, b = (model.evaluate(x, method="iwae", n_samples=2000).total for x in (longer, X))
        assert a == pytest.approx(b, abs=1.0)


@pytest.mark.parametrize("name", ["gaussian-diag", "gaussian-spherical", "gaussian-full", "gaussian-tied"])
def test_a_missing_column_is_the_marginal(name: str) -> None:
    """A Gaussian with a column never observed is the Gaussian of the others."""
    model, X = fitted(name), data(name)
    hidden = X.copy()
    hidden[:, 1] = np.nan
    smaller = GaussianHMM(2, "full")
    smaller.startprob_, smaller.transmat_ = model.startprob_, model.transmat_
    smaller.means_, smaller.covars_ = model.means_[:, [0, 2]], model.covars_[:, [0, 2]][:, :, [0, 2]]
    assert model.score(hidden, LENGTHS) == pytest.approx(smaller.score(X[:, [0, 2]], LENGTHS), rel=1e-10)
    assert_allclose(
        model.predict_proba(hidden, LENGTHS), smaller.predict_proba(X[:, [0, 2]], LENGTHS), atol=1e-10
    )


@every
def test_samples_have_the_right_shape_and_repeat(name: str) -> None:
    model, X = fitted(name), data(name)
    x, hidden = model.sample(30, random_state=4)
    assert x.shape == (30, X.shape[1])
    assert hidden.shape == ((30,) if name in STATEFUL else (30, 2))
    again, other = model.sample(30, random_state=4), model.sample(30, random_state=5)
    assert_array_equal(again[0], x)
    assert_array_equal(again[1], hidden)
    assert not np.array_equal(other[0], x)
    if name in STATEFUL:
        assert set(hidden) <= {0, 1}
    model.check(Sequences.from_any(x))


@every
def test_clone_forgets_the_fit_and_keeps_the_parameters(name: str) -> None:
    twin = clone(fitted(name))
    plain = [
        {k: v for k, v in model.get_params().items() if not isinstance(v, torch.nn.Module)}
        for model in (twin, fitted(name))
    ]
    assert plain[0] == plain[1]
    assert twin.get_params().keys() == fitted(name).get_params().keys()
    with pytest.raises(NotFittedError, match="call fit"):
        twin.score(data(name))


# -- wrong input: the message names the argument, the value and the remedy


def broken(X: np.ndarray, value: float) -> np.ndarray:
    X = X.copy()
    X[3, 0] = value
    return X


@every
def test_wrong_data_is_refused_in_words(name: str) -> None:
    model, X = fitted(name), data(name)
    D = X.shape[1]
    for verb in ("score", "evaluate", "predict", "transform"):
        ask = getattr(model, verb, None)
        if ask is None:
            continue
        with pytest.raises(
            ValueError, match=rf"X has {D + 1} features, but {type(model).__name__} is expecting {D} features"
        ):
            ask(np.hstack([X, X[:, :1]]))
        with pytest.raises(ValueError, match=f"lengths sum to {N + 1}, but X has {N} rows"):
            ask(X, [N, 1])
        with pytest.raises(ValueError, match="infinite value in row 3; use NaN"):
            ask(broken(X, np.inf))
        with pytest.raises(ValueError, match=r"use X.reshape\(-1, 1\)"):
            ask(X[:, 0])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("categorical", 4.0, "X holds 4.*0 to 3.*n_features"),
        ("categorical", -1.0, "X holds -1"),
        ("categorical", 0.5, "X holds 0.5"),
        ("poisson", -2.0, "X holds -2.*whole numbers"),
        ("poisson", 1.5, "X holds 1.5"),
        ("bernoulli", 2.0, "X holds 2.*0 and 1"),
        ("multinomial", -2.0, "X holds -2.*whole numbers"),
        ("multinomial", 9.0, "X has a row that sums to.*n_trials it is 6"),
        ("vae-binary", 2.0, "X holds 2"),
        ("vae-symbols", 9.0, "X holds 9"),
        ("vae-counts", 0.5, "X holds 0.5"),
    ],
)
def test_values_outside_the_support_are_refused(name: str, value: float, words: str) -> None:
    X = broken(data(name), value)
    with pytest.raises(ValueError, match=words):
        fitted(name).score(X, LENGTHS)
    if name != "vae-symbols":  # one more symbol is no error to a fit
        with pytest.raises(ValueError, match=words.split(".*")[0]):
            ALL[name][0]().fit(X, LENGTHS)


REAL = frames("real")


def misspelt() -> GaussianHMM:
    return clone(fitted("gaussian-diag")).set_params(algorithm="viterby").fit(REAL)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianHMM(2, covariance_type="diagonal").fit(REAL), "covariance_type='diagonal'.*'diag'"),
        (lambda: misspelt().predict(REAL), "algorithm='viterby'.*'viterbi' or 'map'"),
        (lambda: fitted("gaussian-diag").decode(REAL, algorithm="mpm"), "algorithm='mpm'.*'viterbi' or 'map'"),
        (lambda: fitted("vae").evaluate(REAL, method="exact"), "method='exact'.*elbo.*iwae.*smc"),
        (lambda: VAE(2, likelihood="gausian").fit(REAL), "likelihood='gausian'.*gaussian"),
        (lambda: VAE(2, estimator="C").fit(REAL), "estimator='C'.*'A' or 'B'"),
        (lambda: VAEHMM(2, covariance="spherical").fit(REAL), "covariance='spherical'.*'diag', 'full', 'tied'"),
        (lambda: VAEHMM(2, inference="mcmc").fit(REAL), "inference='mcmc'.*'exact', 'sampled', 'analytic'"),
        (lambda: DeepMarkovModel(2, inference="st-l").fit(REAL), "inference='st-l'.*'ST-L'.*'product'"),
        (lambda: DeepMarkovModel(2, transition="gru").fit(REAL), "transition='gru'.*'gated' or 'linear'"),
        (lambda: GaussianHMM(2).fit(REAL, labels=np.full(N, 2)), "labels name state 2, but n_components is 2"),
        (lambda: GaussianHMM(2).fit(REAL, labels=np.zeros(N - 1)), rf"labels.*\(?{N - 1}.*{N}"),
        (lambda: GaussianHMM(2).fit(REAL, LENGTHS, sample_weight=[1, 1]), "weights.*must be 5"),
        (lambda: GaussianHMM(2).fit(REAL, [N, 1]), f"lengths sum to {N + 1}, but X has {N} rows"),
        (lambda: GaussianHMM(2, means_prior=np.zeros(4)).fit(REAL), r"means_prior has shape \(4,\).*\(2, 3\)"),
        (lambda: GaussianHMM(2, means_prior=np.nan).fit(REAL), "means_prior=nan.*finite"),
        (lambda: GaussianHMM(2, means_weight=-1).fit(REAL), "means_weight=-1.*not negative"),
        (lambda: GaussianHMM(2, covars_prior=np.ones(2)).fit(REAL), r"covars_prior has shape \(2,\)"),
        (lambda: GaussianHMM(2, "full", covars_prior=np.eye(2)).fit(REAL), r"covars_prior has shape \(2, 2\)"),
        (lambda: GaussianHMM(2, "tied", covars_prior=-np.eye(3)).fit(REAL), "positive semi-definite"),
        (lambda: GaussianHMM(2, startprob_prior=np.ones(3)).fit(REAL), r"startprob_prior has shape \(3,\)"),
        (lambda: GaussianHMM(2, transmat_prior=np.eye(3)).fit(REAL), r"transmat_prior has shape \(3, 3\)"),
        (lambda: PoissonHMM(2, lambdas_prior=np.ones(3)).fit(frames("counts")), r"lambdas_prior has shape \(3,\)"),
        (
            lambda: CategoricalHMM(2, emissionprob_prior=np.ones(3), n_features=4).fit(frames("symbols")),
            r"emissionprob_prior has shape \(3,\)",
        ),
        (lambda: GaussianHMM(0).fit(REAL), "n_components=0"),
        (lambda: GaussianHMM(2, n_init=0).fit(REAL), "n_init=0"),
        (lambda: fitted("gaussian-diag").sample(5, currstate=2), "currstate=2"),
        (lambda: fitted("gaussian-diag").sample(0), "n_samples=0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_words(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("startprob_", [0.5, 0.6], "startprob_ must hold probabilities"),
        ("startprob_", [1.0], r"startprob_ has shape \(1,\)"),
        ("transmat_", [[0.5, 0.5], [0.2, 0.2]], "transmat_ must hold probabilities"),
        ("transmat_", [[1.5, -0.5], [0.5, 0.5]], "transmat_ must hold probabilities"),
        ("covars_", [[1.0, 1.0, -1.0], [1.0, 1.0, 1.0]], "covars_ must be positive definite"),
        ("covars_", [1.0, 1.0], "covars_ of shape.*'diag' with 2 states"),
    ],
)
def test_wrong_attributes_are_refused_in_words(attribute: str, value: Any, words: str) -> None:
    model = clone(fitted("gaussian-diag")).fit(REAL)
    with pytest.raises(ValueError, match=words):
        setattr(model, attribute, np.array(value))
        model.score(REAL)


def certain() -> CategoricalHMM:
    """Two states that never change, each with its own symbol."""
    model = CategoricalHMM(2, init_params="")
    model.startprob_, model.transmat_, model.emissionprob_ = np.full(2, 0.5), np.eye(2), np.eye(2)
    return model


@pytest.mark.parametrize("verb", ["decode", "predict", "predict_proba", "filter", "score_samples", "fit"])
def test_an_impossible_sequence_is_named(verb: str) -> None:
    with pytest.raises(ValueError, match="sequence 1 is impossible under the model"):
        getattr(certain(), verb)([[[0.0], [0.0]], [[0.0], [1.0]], [[1.0]]])


def test_an_impossible_sequence_scores_minus_infinity() -> None:
    score = certain().evaluate([[[0.0], [0.0]], [[0.0], [1.0]]])
    assert score.per_sequence.tolist() == pytest.approx([np.log(0.5), -np.inf])


# -- states


@classical
def test_map_decoding_reports_the_joint_probability_of_its_path(name: str) -> None:
    """By the definition, log p(path, x) = log p(x | labels = path): every other path ruled out."""
    model, X = fitted(name), incomplete(name)
    for algorithm in ("map", "viterbi"):
        score, path = model.decode(X, LENGTHS, algorithm=algorithm)
        sequences = Sequences.from_any(X, LENGTHS, labels=path)
        expected = float(model.state_model().objective(sequences.batch()).detach().sum())
        assert score == pytest.approx(expected, rel=1e-12), algorithm
    assert_array_equal(model.decode(X, LENGTHS, "map")[1], model.predict_proba(X, LENGTHS).argmax(1))
    assert model.decode(X, LENGTHS, "map")[0] <= model.decode(X, LENGTHS, "viterbi")[0] + 1e-9


@pytest.mark.parametrize("name", ["vae-hmm", "switching-dmm"])
def test_deep_decoding_reports_log_q_of_the_path(name: str) -> None:
    """The probabilities of all paths of a short sequence add up to 1."""
    model, X = fitted(name), data(name)[:5]
    with torch.no_grad():
        chain = model.module_.chain(model.prepared(model.sequences(X)).batch())
    from dbn_vae.inference import path_score

    paths = torch.cartesian_prod(*[torch.arange(2)] * 5)
    log_q = torch.stack([path_score(chain, p[None])[0] for p in paths]) - torch.logsumexp(
        torch.stack([path_score(chain, p[None])[0] for p in paths]), 0
    )
    score, path = model.decode(X)
    assert score == pytest.approx(float(log_q.max()), abs=1e-4)
    assert path.tolist() == paths[log_q.argmax()].tolist()


@stateful
def test_probabilities_are_probabilities(name: str) -> None:
    model, X = fitted(name), incomplete(name)
    for verb in ("predict_proba", "filter"):
        if verb == "filter" and name not in FILTERS:
            continue
        probs = getattr(model, verb)(X, LENGTHS)
        assert probs.shape == (N, 2)
        assert_allclose(probs.sum(1), 1, atol=1e-6, err_msg=verb)
        assert (probs >= 0).all(), verb


@pytest.mark.parametrize("name", [n for n in FILTERS if n in STATEFUL])
def test_the_filter_knows_at_the_end_what_the_smoother_knows(name: str) -> None:
    model, X = fitted(name), incomplete(name)
    last = ENDS - 1
    assert_allclose(model.filter(X, LENGTHS)[last], model.predict_proba(X, LENGTHS)[last], atol=1e-6)


@pytest.mark.parametrize("name", ["dmm", "switching-dmm"])
def test_a_posterior_that_knows_the_future_does_not_filter(name: str) -> None:
    with pytest.raises(ValueError, match="knows the future; fit with inference='product-filter'"):
        fitted(name).filter(data(name), LENGTHS)


@pytest.mark.parametrize("name", FILTERS)
def test_the_filter_never_looks_ahead(name: str) -> None:
    """Whatever the future becomes, past rows stay."""
    model, X = fitted(name), incomplete(name)[:20]
    before = model.filter(X)
    changed = X.copy()
    changed[12:] = data(name)[40:48]
    after = model.filter(changed)
    assert_allclose(after[:12], before[:12], atol=1e-6)
    assert np.abs(after[12:] - before[12:]).max() > 1e-3, "the change must matter, or the test says nothing"
    assert_allclose(model.filter(X[:12]), before[:12], atol=1e-6)


# -- learning the classical models


def counts_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, pairs = np.zeros(2), np.zeros((2, 2))
    np.add.at(first, labels[STARTS], 1)
    inside = np.setdiff1d(np.arange(1, N), STARTS)
    np.add.at(pairs, (labels[inside - 1], labels[inside]), 1)
    return first, pairs


@maximum
def test_known_labels_turn_fitting_into_counting(name: str) -> None:
    make, kind = CLASSICAL[name]
    X, labels = frames(kind), np.random.default_rng(3).integers(0, 2, N)
    model = (
        make()
        .set_params(**({"covars_prior": 0} if "gaussian" in name else {}))
        .fit(X, LENGTHS, labels=labels)
    )
    first, pairs = counts_of(labels)
    assert_allclose(model.startprob_, first / first.sum(), atol=1e-12)
    assert_allclose(model.transmat_, pairs / pairs.sum(1, keepdims=True), atol=1e-12)
    groups = [X[labels == k] for k in range(2)]
    if "gaussian" in name:
        assert_allclose(model.means_, [g.mean(0) for g in groups])
    elif name == "categorical":
        assert_allclose(
            model.emissionprob_, [np.bincount(g[:, 0].astype(int), minlength=4) / len(g) for g in groups]
        )
    elif name.startswith("gmm"):  # an M-step leaves the mean of a mixture at that of its frames
        mean = (model.weights_[..., None] * model.means_).sum(1)
        assert_allclose(mean, [g.mean(0) for g in groups], rtol=1e-10)
    else:
        table = model.lambdas_ if name == "poisson" else model.emissionprob_
        scale = 6 if name == "multinomial" else 1
        assert_allclose(table, [g.mean(0) / scale for g in groups])


def test_some_labels_name_the_states() -> None:
    """Three known frames a state decide which state is which; the rest is found."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(0, 3, 40), 5)
    X = rng.normal(size=(200, 2)) * 0.5 + np.array([[0, 0], [6, 0], [0, 6]])[truth]
    for seed in range(4):
        labels = np.full(200, -1)
        names = np.random.default_rng(seed).permutation(3)
        for k in range(3):
            known = np.flatnonzero(truth == k)[:3]
            labels[known] = names[k]
        model = GaussianHMM(3, random_state=0, n_iter=50).fit(X, labels=labels)
        assert (model.predict(X) == names[truth]).mean() > 0.98, f"names {names}"


@maximum
def test_weight_2_is_a_duplicated_sequence(name: str) -> None:
    """From the same start; its own start may differ, since k-means knows no weights."""
    X = incomplete(name)
    listed = [X[a:b] for a, b in zip(STARTS, ENDS, strict=True)]
    weighted, doubled = (clone(fitted(name)).set_params(init_params="", n_iter=5) for _ in range(2))
    for model in (weighted, doubled):
        for attribute in ("startprob_", "transmat_", *type(model).letters.values()):
            setattr(model, attribute, getattr(fitted(name), attribute))
        if "gaussian" in name:
            model.set_params(min_covar=1e-6)
    weighted.fit(listed, sample_weight=[1, 2, 1, 1, 3])
    doubled.fit([*listed, listed[1], listed[4], listed[4]])
    assert_allclose(weighted.monitor_.history, doubled.monitor_.history, rtol=1e-10)
    assert_allclose(weighted.transmat_, doubled.transmat_, rtol=1e-8)


@maximum
def test_zeros_of_the_start_stay_zeros(name: str) -> None:
    """A left-to-right chain stays one, and its zeros are not counted as parameters."""
    make, kind = CLASSICAL[name]
    free = make().fit(frames(kind), LENGTHS).n_parameters()
    model = make().set_params(init_params="".join(type(make()).letters))
    model.startprob_, model.transmat_ = np.array([1.0, 0.0]), np.array([[0.9, 0.1], [0.0, 1.0]])
    model.fit(frames(kind), LENGTHS)
    assert model.startprob_.tolist() == [1.0, 0.0]
    assert model.transmat_[1].tolist() == [0.0, 1.0]
    assert 0 < model.transmat_[0, 1] < 1
    assert model.n_parameters() == free - 2
    _, path = model.decode(frames(kind), LENGTHS)
    for a, b in zip(STARTS, ENDS, strict=True):
        assert (np.diff(path[a:b]) >= 0).all()


def test_a_prior_makes_a_chain_sticky() -> None:
    free = GaussianHMM(2, random_state=0).fit(REAL, LENGTHS)
    sticky = GaussianHMM(2, random_state=0, transmat_prior=1 + 1000 * np.eye(2)).fit(REAL, LENGTHS)
    assert (sticky.transmat_.diagonal() > 0.97).all()
    assert (sticky.transmat_.diagonal() > free.transmat_.diagonal()).all()


@pytest.mark.some(4)
@maximum
def test_of_several_starts_the_best_is_kept(name: str) -> None:
    make, kind = CLASSICAL[name]
    options = {"n_init": 6, "n_iter": 4, "n_components": 3} | (
        {"covars_prior": 0} if "gaussian" in name else {}
    )
    model = make().set_params(**options).fit(frames(kind), LENGTHS)
    assert len(model.restart_scores_) == 6
    assert len({round(s, 6) for s in model.restart_scores_}) > 1, "every start alike: the test says nothing"
    assert model.monitor_.history[-1] == max(model.restart_scores_)
    assert model.score(frames(kind), LENGTHS) == pytest.approx(max(model.restart_scores_), rel=1e-12)


@classical
@pytest.mark.parametrize("steps", [3, 8])
def test_after_ctrl_c_the_model_is_usable(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Interrupted in the first start or in the second: the best so far is kept, and the interrupt goes on."""
    from dbn_vae.estimators import hmm as module
    from dbn_vae.training.em import em

    left = iter(range(steps))

    def interrupted(*arguments: Any) -> Any:
        for step in em(*arguments):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(module, "em", interrupted)
    make, kind = CLASSICAL[name]
    model = make().set_params(tol=-np.inf)
    with pytest.raises(KeyboardInterrupt):
        model.fit(frames(kind), LENGTHS)
    monkeypatch.undo()
    score = model.score(frames(kind), LENGTHS)
    assert score >= model.monitor_.history[-1] - 1e-9, (
        "the parameters are at least as good as the last value seen"
    )
    assert len(model.restart_scores_) == (0 if steps == 3 else 1)
    model.save(tmp_path / "m.dbn")
    assert dbn_vae.load(tmp_path / "m.dbn").score(frames(kind), LENGTHS) == score


def test_n_iter_0_gives_the_start() -> None:
    model = GaussianHMM(2, random_state=0, n_iter=0, n_init=1).fit(REAL, LENGTHS)
    assert model.monitor_.history == [pytest.approx(model.score(REAL, LENGTHS))]
    assert model.monitor_.iter == 0


@pytest.mark.parametrize("covariance_type", ["diag", "spherical", "full", "tied"])
def test_the_floor_of_the_variance_is_held(covariance_type: str) -> None:
    """A state of identical frames: in hmmlearn its variance becomes 0."""
    X = np.vstack([np.zeros((20, 2)), np.random.default_rng(0).normal(5, 1, (20, 2))])
    model = GaussianHMM(2, covariance_type, min_covar=0.01, covars_prior=0, n_iter=30, random_state=0).fit(X)
    assert np.linalg.eigvalsh(model.covars_ - 0.01 * np.diag(X.var(0))).min() > -1e-9


@pytest.mark.parametrize("make", [BernoulliHMM, PoissonHMM])
def test_a_start_leaves_every_value_possible(make: Any) -> None:
    """k-means on few different values makes groups of one value; a probability or rate of 0 could never rise again."""
    rng = np.random.default_rng(0)
    states = np.repeat(rng.integers(0, 2, 100), 20)
    X = (rng.random((2000, 1)) < np.where(states[:, None], 0.8, 0.2)).astype(float)
    (attribute,) = make.letters.values()
    begin = getattr(make(2, random_state=0, n_iter=0, n_init=1).fit(X), attribute)
    assert ((begin > 0.01) & (begin < 0.99)).all(), f"starts at {begin.ravel()}"
    model = make(2, random_state=0, n_iter=200, tol=1e-6).fit(X)
    truth = clone(model)
    truth.startprob_, truth.transmat_ = np.full(2, 0.5), 0.94 * np.eye(2) + 0.03
    setattr(truth, attribute, np.array([[0.2], [0.8]]))
    assert model.score(X) > truth.score(X), (
        f"fitted to {getattr(model, attribute).ravel()}, under the truth's score"
    )


def test_what_is_given_beside_sequences_is_not_dropped() -> None:
    """Sequences carry their own labels and weights: others beside them are used or refused, never ignored."""
    sequences = Sequences.from_any(REAL, LENGTHS)
    labels = np.random.default_rng(3).integers(0, 2, N)
    try:
        model = GaussianHMM(2, random_state=0).fit(sequences, labels=labels)
    except ValueError as error:
        assert "labels" in str(error)
    else:
        first, _ = counts_of(labels)
        assert_allclose(model.startprob_, first / first.sum(), atol=1e-12)


# -- learning the deep models


@deep
def test_after_ctrl_c_a_deep_model_is_usable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbn_vae.estimators import recipe as module
    from dbn_vae.training.sgvb import ascend

    left = iter(range(5))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        for step in ascend(*arguments, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(module, "ascend", interrupted)
    make, kind = DEEP[name]
    model = make().set_params(n_updates=50)
    with pytest.raises(KeyboardInterrupt):
        model.fit(frames(kind), LENGTHS)
    assert np.isfinite(model.score(frames(kind), LENGTHS))


LINEAR: dict[str, Any] = {"hidden": (), "n_updates": 0, "n_pretrain": 0, "random_state": 0}


SHIFTED = REAL * [1.0, 20.0, 0.05] + [0.0, 300.0, -2.0]
LOADINGS = torch.tensor([[0.8, 0.0], [0.0, 0.6], [0.0, 0.0]], dtype=torch.float64)
OFFSET = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
SIGMA = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)


def straighten(model: Any, sharper: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make the core linear, p(x | z) = N(C z + d, diag r), and give C, d, r in the units of X.

    Its evidence is the likelihood itself where sharper is 0, and more certain than it should be otherwise.
    """
    core = linear_gaussian_core(LOADINGS, OFFSET, SIGMA)
    model.module_.core.load_state_dict(core.state_dict())
    with torch.no_grad():
        model.module_.core.encoder[0].bias[2:] += sharper
    scale, center = model.scale_.double().numpy(), model.center_.double().numpy()
    return scale[:, None] * LOADINGS.numpy(), center + scale * OFFSET.numpy(), (scale * SIGMA.numpy()) ** 2


def twin_of_vae_hmm(K: int, sharper: float, covariance: str = "diag") -> tuple[VAEHMM, GaussianHMM]:
    """With a linear decoder a VAE-HMM is a Gaussian HMM: N(C μ_k + d, C Σ_k Cᵀ + R)."""
    model = VAEHMM(K, 2, covariance=covariance, **LINEAR).fit(SHIFTED, LENGTHS)
    root = torch.tensor([[[0.6, 0.0], [-0.5, 0.9]], [[1.2, 0.0], [0.4, 0.5]]])[:K]
    model.module_.set_components(torch.tensor([[0.5, -1.0], [-0.8, 1.0]])[:K], root @ root.mT)
    C, d, r = straighten(model, sharper)
    p = model.module_.components()
    hmm = GaussianHMM(K, "full")
    A = model.transmat_.astype(float)
    pi = model.startprob_.astype(float)
    hmm.startprob_, hmm.transmat_ = pi / pi.sum(), A / A.sum(1, keepdims=True)
    hmm.means_ = p.mean.detach().double().numpy() @ C.T + d
    matrices = torch.diag_embed(p.variance) if covariance == "diag" else p.covariance_matrix
    hmm.covars_ = np.stack([C @ V @ C.T + np.diag(r) for V in matrices.detach().double().numpy()])
    return model, hmm


@pytest.mark.parametrize(("K", "covariance"), [(1, "diag"), (2, "diag"), (2, "full"), (2, "tied")])
def test_with_exact_evidence_a_vae_hmm_is_the_gaussian_hmm_it_is(K: int, covariance: str) -> None:
    """Scores in the units of X, posteriors, paths and the missing entries' expectation: nothing is approximate."""
    model, hmm = twin_of_vae_hmm(K, 0.0, covariance)
    exact = hmm.evaluate(SHIFTED, LENGTHS).per_sequence.numpy()
    for method, S in (("iwae", 5), ("elbo", 1000)):
        found = model.evaluate(SHIFTED, LENGTHS, method=method, n_samples=S).per_sequence.numpy()
        assert_allclose(found, exact, rtol=1e-4, atol=1e-2 if method == "iwae" else 0.5, err_msg=method)
    assert_allclose(model.predict_proba(SHIFTED, LENGTHS), hmm.predict_proba(SHIFTED, LENGTHS), atol=1e-4)
    assert_allclose(model.filter(SHIFTED, LENGTHS), hmm.filter(SHIFTED, LENGTHS), atol=1e-4)
    assert_array_equal(model.predict(SHIFTED, LENGTHS), hmm.predict(SHIFTED, LENGTHS))
    # decode reports log q(path | x), here log p(path, x) − log p(x)
    joint = hmm.decode(SHIFTED, LENGTHS)[0] - hmm.score(SHIFTED, LENGTHS)
    assert model.decode(SHIFTED, LENGTHS)[0] == pytest.approx(joint, abs=0.02)


def test_the_bounds_of_a_vae_hmm_stand_in_their_order() -> None:
    """With the same weights: analytic ≤ sampled ≤ log p, and the exact posterior's is log p."""
    exact, hmm = twin_of_vae_hmm(2, 0.0, "full")
    log_p, below = hmm.score(SHIFTED, LENGTHS), {}
    for inference in ("analytic", "sampled"):
        model = VAEHMM(2, 2, covariance="full", inference=inference, **LINEAR).fit(SHIFTED, LENGTHS)
        model.module_.load_state_dict(exact.module_.state_dict())
        below[inference] = model.score(SHIFTED, lengths=LENGTHS, method="elbo", n_samples=300)
        assert model.decode(SHIFTED, LENGTHS)[0] <= 0
        assert model.filter_state().update(SHIFTED[0]) == pytest.approx(
            model.filter(SHIFTED[:1])[0], abs=1e-5
        )
    assert below["analytic"] < below["sampled"] - 0.5
    assert below["sampled"] < log_p - 0.5


@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize("missing", [False, True])
def test_the_bound_stays_under_the_exact_likelihood_and_tends_to_it(K: int, missing: bool) -> None:
    """In the units of X, standardised inside, ragged, with NaN: a classical HMM says what is exact."""
    model, hmm = twin_of_vae_hmm(K, 1.5)
    X = SHIFTED.copy()
    if missing:
        X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    exact = hmm.score(X, LENGTHS)
    elbo = model.evaluate(X, LENGTHS, method="elbo", n_samples=500).total
    rough, fine = (model.evaluate(X, LENGTHS, n_samples=S).total for S in (3, 3000))
    assert elbo < rough < fine < exact + 0.5
    assert fine == pytest.approx(exact, abs=1.0)


@pytest.mark.parametrize("missing", [False, True])
def test_a_static_vae_with_a_linear_decoder_is_a_gaussian(missing: bool) -> None:
    model = VAE(2, **LINEAR).fit(SHIFTED, LENGTHS)
    C, d, r = straighten(model, 0.3)
    gaussian = GaussianHMM(1, "full")
    gaussian.startprob_, gaussian.transmat_ = np.ones(1), np.ones((1, 1))
    gaussian.means_, gaussian.covars_ = d[None], (C @ C.T + np.diag(r))[None]
    X = SHIFTED.copy()
    if missing:
        X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    exact = gaussian.evaluate(X, LENGTHS).per_sequence.numpy()
    found = model.evaluate(X, LENGTHS, n_samples=3000).per_sequence.numpy()
    assert_allclose(found, exact, atol=0.5)
    assert model.evaluate(X, LENGTHS, method="elbo", n_samples=100).total < exact.sum()


@pytest.mark.parametrize("name", ["vae", "vae-hmm", "dmm", "switching-dmm"])
def test_units_change_a_score_by_their_jacobian_alone(name: str) -> None:
    """10 X + 3 costs log 10 for each observed entry: standardised, it is the same data and the same module."""
    make, kind = DEEP[name]
    X = frames(kind)
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    a, b = (make().set_params(n_updates=0, n_pretrain=0).fit(x, LENGTHS) for x in (X, 10 * X + 3))
    for method in ("elbo", "iwae", "smc"):
        one, ten = (m.evaluate(x, LENGTHS, method=method).per_sequence for m, x in ((a, X), (b, 10 * X + 3)))
        seen = np.add.reduceat((~np.isnan(X)).sum(1), STARTS)
        assert_allclose(one - ten, seen * np.log(10), rtol=1e-4, atol=2e-3, err_msg=method)
    assert_allclose(
        b.reconstruct(10 * X + 3, LENGTHS), 10 * a.reconstruct(X, LENGTHS) + 3, rtol=1e-3, atol=1e-3
    )
    assert_allclose(
        b.sample(9, random_state=0)[0], 10 * a.sample(9, random_state=0)[0] + 3, rtol=1e-3, atol=1e-3
    )


@pytest.mark.some(4)
@deep
def test_the_elbo_is_under_the_importance_bound(name: str) -> None:
    model, X = fitted(name), incomplete(name)
    low, high = (
        model.evaluate(X, LENGTHS, method="elbo", n_samples=400),
        model.evaluate(X, LENGTHS, n_samples=400),
    )
    assert (low.kind, high.kind) == ("ELBO", "importance bound, S = 400")
    assert low.total <= high.total + 0.3
    assert model.score(X, LENGTHS) == model.evaluate(X, LENGTHS, n_samples=model.n_samples).total


def test_without_standardising_nothing_is_scaled() -> None:
    model = VAE(2, standardize=False, random_state=0, **TINY).fit(SHIFTED)
    assert (model.center_ == 0).all()
    assert (model.scale_ == 1).all()


def chain_data(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Three persistent states, a dozen standard deviations apart."""
    rng = np.random.default_rng(0)
    states = np.repeat(rng.integers(0, 3, n // 10), 10)
    centres = np.array([[4, 0, 0, 1], [0, 4, 0, -1], [-4, -4, 3, 0]])
    return centres[states] + 0.5 * rng.normal(size=(n, 4)), states


QUICK: dict[str, Any] = {
    "hidden": (16,), "n_pretrain": 150, "n_updates": 60, "warm_up": 20, "learning_rate": 1e-2, "max_length": 50,
    "batch_size": 8, "n_samples": 20, "random_state": 0,
}  # fmt: skip


def test_a_vae_hmm_recovers_well_separated_states() -> None:
    X, states = chain_data()
    model = VAEHMM(3, 2, **QUICK).fit(X)
    assert matched_accuracy(states, model.predict(X)) > 0.95


def test_labels_name_the_states_of_a_vae_hmm() -> None:
    """Whatever the states are called in the labels, they are called so in the answers."""
    X, states = chain_data()
    names = np.array([2, 0, 1])
    labels = names[states]
    model = VAEHMM(3, 2, **QUICK).fit(X, labels=labels)
    assert (model.predict(X) == labels).mean() > 0.9


HELD_OUT = {
    "bernoulli": (lambda rng, s: rng.random((len(s), 6)) < np.where(s[:, None], 0.9, 0.1), 2),
    "poisson": (lambda rng, s: rng.poisson(np.where(s[:, None], 12.0, 2.0), (len(s), 6)), 0),
    "categorical": (lambda rng, s: np.where(rng.random((len(s), 4)) < 0.85, s[:, None], 2), 3),
}


def independent(likelihood: str, train: np.ndarray, test: np.ndarray) -> float:
    """log p of the test entries, each column by its frequencies or its rate in training."""
    from scipy.stats import poisson

    if likelihood == "poisson":
        return float(poisson(train.mean(0)).logpmf(test).sum())
    values = np.unique(train)
    probs = np.stack([(train == v).mean(0) for v in values])
    return float(
        sum(np.log(probs[i])[None].repeat(len(test), 0)[test == v].sum() for i, v in enumerate(values))
    )


@pytest.mark.parametrize(
    ("make", "likelihood"),
    [(VAEHMM, "categorical"), (VAE, "bernoulli"), (DeepMarkovModel, "poisson")],
)
def test_every_likelihood_beats_independent_entries_on_held_out_data(make: Any, likelihood: str) -> None:
    draw, _ = HELD_OUT[likelihood]
    rng = np.random.default_rng(0)
    states = np.repeat(rng.integers(0, 2, 60), 10)
    X = draw(rng, states).astype(float)
    train, test = X[:400], X[400:]
    options = QUICK | {"n_updates": 30, "n_pretrain": 100, "warm_up": 10}
    if make is VAE:
        options |= {"max_length": 1, "n_pretrain": 0, "batch_size": 64, "n_updates": 300}
    if make is DeepMarkovModel:
        options |= {"max_length": 20, "n_updates": 10}
    model = make(n_latent=2, likelihood=likelihood, **options).fit(train)
    gain = model.score(test) - independent(likelihood, train, test)
    assert gain > 20, f"gains {gain:.1f} nats on {len(test)} frames"
