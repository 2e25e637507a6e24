"""The short way of one complete array: the numbers of the long way, which a list of that array takes, and no other."""

import numpy as np
import pandas as pd
import pytest

from dbn_vae import CategoricalHMM, GaussianHMM, PoissonHMM, inference
from dbn_vae.inference.backends import fusing

K, T, V = 3, 40, 5
pytestmark = pytest.mark.skipif(
    not fusing, reason="installed without the compiled engine, whose short way this is"
)


def fitted(kind: str) -> GaussianHMM | CategoricalHMM:
    rng = np.random.default_rng(1)
    model = CategoricalHMM(K, n_features=V) if kind == "categorical" else GaussianHMM(K, covariance_type=kind)
    model.startprob_, model.transmat_ = rng.dirichlet(np.ones(K)), rng.dirichlet(np.ones(K), K)
    if kind == "categorical":
        model.emissionprob_ = rng.dirichlet(np.ones(V), K)
        return model
    model.means_ = rng.normal(size=(K, 2))
    model.covars_ = {
        "diag": rng.uniform(0.5, 2, (K, 2)),
        "spherical": rng.uniform(0.5, 2, K),
        "full": np.eye(2) * rng.uniform(0.5, 2, (K, 1, 1)) + 0.3,
        "tied": np.eye(2) + 0.3,
    }[kind]
    return model


def frames(kind: str, n: int = T) -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.integers(0, V, (n, 1)) if kind == "categorical" else rng.normal(size=(n, 2))


VERBS = ["score", "predict_proba", "filter", "predict", "decode", "score_samples"]
KINDS = ["diag", "spherical", "full", "tied", "categorical"]


@pytest.mark.parametrize("n", [1, 2, T, 3000])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_say_the_same(kind, verb, n) -> None:
    model, X = fitted(kind), frames(kind, n)
    assert model.alone(X, None, None) is not None
    assert model.alone([X], None, None) is None
    np.testing.assert_equal(getattr(model, verb)(X), getattr(model, verb)([X]))
    np.testing.assert_equal(getattr(model, verb)(X, [n]), getattr(model, verb)([X]))


@pytest.mark.parametrize("algorithm", ["viterbi", "map"])
def test_both_algorithms_of_decode(algorithm) -> None:
    model, X = fitted("diag"), frames("diag")
    np.testing.assert_equal(model.decode(X, algorithm=algorithm), model.decode([X], algorithm=algorithm))


@pytest.mark.parametrize(
    "form",
    [
        lambda X: X.astype(np.float32).astype(np.float64),
        lambda X: np.asfortranarray(X),
        lambda X: np.repeat(X, 2, axis=0)[::2],
        lambda X: X[::-1],
    ],
)
def test_any_layout_of_the_array(form) -> None:
    model, X = fitted("full"), form(frames("full"))
    assert model.score(X) == model.score([X])


def test_an_array_that_must_not_be_written_to_is_only_read() -> None:
    model, X = fitted("diag"), frames("diag")
    X.flags.writeable = False
    assert model.score(X) == model.score([X])


def test_what_is_not_one_complete_array_goes_the_long_way() -> None:
    model, X = fitted("diag"), frames("diag")
    gap = X.copy()
    gap[3, 0] = np.nan
    others = [gap, X[:, :1], X.reshape(2, 20, 2), pd.DataFrame(X), X.tolist(), X.astype(object), X[:0]]
    assert all(model.alone(x, None, None) is None for x in others)
    assert all(model.alone(X, lengths, None) is None for lengths in ([20, 20], [39], [[40]], 40))
    assert model.alone(X, None, np.ones((T, 1))) is None
    with inference.using("reference"):
        assert model.alone(X, None, None) is None
    poisson = PoissonHMM(K)
    poisson.startprob_, poisson.transmat_, poisson.lambdas_ = (
        np.full(K, 1 / K),
        np.full((K, K), 1 / K),
        np.ones((K, 1)),
    )
    assert poisson.alone(frames("categorical"), None, None) is None  # no kernel knows its emissions
    assert GaussianHMM(K).alone(X, None, None) is None  # no parameters yet


def test_attributes_set_by_hand_are_read_anew() -> None:
    model, X = fitted("diag"), frames("diag")
    before = model.score(X)
    model.means_[0, 0] += 1  # in place
    assert model.score(X) == model.score([X]) != before


@pytest.mark.parametrize("value", [V, -1, 0.5, np.inf])
def test_a_symbol_out_of_range_is_refused_as_ever(value) -> None:
    model, X = fitted("categorical"), frames("categorical").astype(float)
    X[4] = value
    with pytest.raises(ValueError, match=r"infinite value|categorical"):
        model.score(X)


def test_unknown_symbols_are_passed_over_as_ever() -> None:
    model, X = fitted("categorical"), frames("categorical").astype(float)
    model.unknown, gap = "ignore", X.copy()
    X[4], gap[4] = V + 1, np.nan
    assert model.score(X) == model.score(gap)


def test_a_sequence_that_no_path_explains_is_named() -> None:
    model, X = fitted("categorical"), frames("categorical")
    model.emissionprob_[:, 0] = 0
    model.emissionprob_ /= model.emissionprob_.sum(1, keepdims=True)
    assert model.score(X) == -np.inf
    for verb in (model.predict_proba, model.decode, model.filter):
        with pytest.raises(ValueError, match="sequence 0 is impossible"):
            verb(X)
