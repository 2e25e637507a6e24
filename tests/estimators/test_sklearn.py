"""scikit-learn's own checks of an estimator, and its tools at work on sequences.

Rows of X are steps of a sequence, not samples: the checks that take them for independent samples fail by design.  They
are listed with their reasons, and a listed check that passes is a failure too.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from dbn_vae import (
    GMMHMM,
    VAE,
    VAEHMM,
    BernoulliHMM,
    CategoricalHMM,
    DeepMarkovModel,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    Sequences,
    SwitchingDMM,
    VariationalGaussianHMM,
    load,
)
from dbn_vae.arrays import as_numpy
from dbn_vae.estimators.arguments import require_width
from dbn_vae.estimators.hmm import HMMEstimator


class WholeNumbers:
    """scikit-learn's checks draw real numbers; a count is their whole part, so that every check can run."""

    def read(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        data: Sequences = super().read(X, lengths, **fields)  # type: ignore[misc]
        return data.replace(x=data.x.floor())


class Counts(WholeNumbers, PoissonHMM):
    pass


class Rows(WholeNumbers, MultinomialHMM):
    """Whose own sums are given: a row is seen whole or not at all."""

    def read(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        data = super().read(X, lengths, **fields)
        whole = data.observed.all(1, keepdim=True).expand_as(data.observed)
        return data.replace(x=data.x * whole, observed=whole)


class YesOrNo(BernoulliHMM):
    """1 where a number is above 1."""

    def read(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        data = super().read(X, lengths, **fields)
        return data.replace(x=(data.x > 1).to(data.x))


class Symbols(CategoricalHMM):
    """One symbol a row, whatever its width: how many of its numbers are above 1, of at most two."""

    def fit(
        self, X: Any, y: Any = None, *, lengths: Any = None, sample_weight: Any = None, **more: Any
    ) -> Any:
        super().fit(X, y, lengths=lengths, sample_weight=sample_weight, **more)
        self.columns_ = as_numpy(X).shape[1]
        return self

    def read(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        data = super().read(X, lengths, **fields)
        if (data.x < 0).any():
            raise ValueError("Negative values in data")
        count = (data.x > 1).sum(1, keepdim=True).clamp_max(2).to(data.x)
        return data.replace(x=count, observed=data.observed.any(1, keepdim=True))

    def sequences(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        self.require_fitted()
        require_width(Sequences.from_any(X, lengths), self.n_features_in_, "Symbols")
        return super().sequences(X, lengths, **fields)

    @property
    def n_features_in_(self) -> int:
        if not self.is_fitted():
            raise AttributeError("not fitted")
        return self.columns_


TINY: dict[str, Any] = {
    "hidden": (4,), "n_updates": 2, "n_pretrain": 2, "warm_up": 1, "n_samples": 2, "batch_size": 3,
}  # fmt: skip
ONE_SEQUENCE = "the rows are one sequence, whose steps stand in order and inform each other"
ONE_WEIGHT = "the rows are one sequence, which has one weight; the check gives every row its own"
TEMPERED = "a row's weight counts its evidence, not its step: a repeated row is one more step of the chain"
ORDER = dict.fromkeys(
    ["check_methods_sample_order_invariance", "check_methods_subset_invariance"], ONE_SEQUENCE
)
WEIGHTS = dict.fromkeys(
    [
        "check_sample_weights_pandas_series",
        "check_sample_weights_not_an_array",
        "check_sample_weights_list",
        "check_sample_weights_shape",
        "check_sample_weights_not_overwritten",
        "check_sample_weight_equivalence_on_dense_data",
    ],
    ONE_WEIGHT,
)
BRIEF: dict[str, Any] = {"n_iter": 5, "n_init": 2}
SEQUENCE_MODELS = [
    GaussianHMM(2, **BRIEF),
    Counts(2, **BRIEF),
    YesOrNo(2, **BRIEF),
    Symbols(2, n_features=3, **BRIEF),
    VariationalGaussianHMM(2, **BRIEF),
    Rows(2, **BRIEF),
    VAEHMM(2, 2, reseed=0, **TINY),
]
VARIANTS = [  # they take and check their data as one above does
    *(GaussianHMM(2, c, **BRIEF) for c in ("spherical", "full", "tied")),
    GMMHMM(2, 2, **BRIEF),
    DeepMarkovModel(2, n_hidden=3, max_length=10, **TINY),
    SwitchingDMM(2, 2, n_hidden=3, max_length=10, n_init=1, reseed=0, **TINY),
]


def expected_failures(estimator: Any) -> dict[str, str]:
    if isinstance(estimator, VAE):
        reason = "trained by stochastic gradients: a weight and a repeated row draw other minibatches"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    if isinstance(estimator, HMMEstimator):
        return ORDER | {"check_sample_weight_equivalence_on_dense_data": TEMPERED}
    return ORDER | WEIGHTS


@pytest.mark.some(4)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@parametrize_with_checks([*SEQUENCE_MODELS, VAE(2, **TINY)], expected_failed_checks=expected_failures)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    hold(estimator, check)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@parametrize_with_checks(VARIANTS, expected_failed_checks=expected_failures)
def test_scikit_learns_checks_of_variants(estimator: Any, check: Any) -> None:
    hold(estimator, check)


def hold(estimator: Any, check: Any) -> None:
    expected = check.func.__name__ in expected_failures(estimator)
    try:
        check(estimator)
    except Exception as error:
        if expected:  # its way through scikit-learn would be told at length
            raise error.with_traceback(None) from None
        raise


def test_the_tags_say_what_is_taken() -> None:
    for estimator in (*SEQUENCE_MODELS, *VARIANTS, VAE(2)):
        assert get_tags(estimator).input_tags.allow_nan
    assert get_tags(CategoricalHMM()).input_tags.positive_only
    assert get_tags(VAE(likelihood="poisson")).input_tags.positive_only
    assert not get_tags(GaussianHMM()).input_tags.positive_only


# -- the second positional argument


def two_groups(n: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) + 5 * np.repeat(rng.integers(0, 2, n // 5), 5)[:, None]


def told(model: Any) -> list[float]:
    """What a fit arrived at."""
    return [*model.monitor_.history, *model.means_.ravel(), *model.transmat_.ravel()]


X = two_groups()
# up to rounding, which depends on how rows lie in memory
WHOLE = pytest.approx(told(GaussianHMM(2, random_state=0).fit(X)), rel=1e-9, abs=1e-12)
CUT = pytest.approx(told(GaussianHMM(2, random_state=0).fit(X, lengths=[25, 15])), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "given", [[25, 15], (25, 15), np.array([25, 15]), torch.tensor([25, 15]), [25.0, 15.0]]
)
def test_lengths_may_stand_second_as_in_hmmlearn(given: Any) -> None:
    model = GaussianHMM(2, random_state=0).fit(X, given)
    assert told(model) == CUT
    assert told(model) != WHOLE
    assert model.score(X, given) == model.score(X, lengths=given) != model.score(X)
    frame = pd.DataFrame(X)
    assert told(GaussianHMM(2, random_state=0).fit(frame, given)) == CUT


@pytest.mark.parametrize(
    "targets",
    [
        np.arange(40) % 2,
        np.linspace(-1, 1, 40),
        ["a", "b"] * 20,
        np.full(40, 2),
        np.ones(40, bool),
        np.zeros((40, 2)),
        pd.Series(np.arange(40)),
    ],
)
def test_targets_of_the_rows_are_left_alone_as_in_scikit_learn(targets: Any) -> None:
    model = GaussianHMM(2, random_state=0).fit(X, targets)
    assert told(model) == WHOLE
    assert model.score(X, targets) == model.score(X)
    assert told(GaussianHMM(2, random_state=0).fit(X, targets, lengths=[25, 15])) == CUT


@pytest.mark.parametrize("targets", [[25, 15], [0, 1], ["a", "b"], [1, 1]])
def test_targets_of_a_list_of_sequences_are_left_alone(targets: Any) -> None:
    listed = [X[:25], X[25:]]
    assert told(GaussianHMM(2, random_state=0).fit(listed, targets)) == CUT
    index = pd.MultiIndex.from_arrays([np.repeat([0, 1], [25, 15]), np.arange(40)])
    assert told(GaussianHMM(2, random_state=0).fit(pd.DataFrame(X, index), targets)) == CUT


@pytest.mark.parametrize(
    ("data", "second"),
    [
        (X, np.ones(40, int)),
        (X, [1.0] * 40),
        (X.reshape(2, 20, 2), [20, 15]),
        (X.reshape(4, 10, 2), [1, 2, 1, 2]),
    ],
)
def test_what_could_be_either_is_refused(data: np.ndarray, second: Any) -> None:
    model = GaussianHMM(2, random_state=0)
    for ask in (model.fit, model.fit(X).score):
        with pytest.raises(ValueError, match=r"could be.*lengths=\.\.\."):
            ask(data, second)
        ask(data, lengths=second)  # the remedy works


def test_both_readings_of_one_row_are_one() -> None:
    model = GaussianHMM(2, random_state=0).fit(X)
    assert model.score(X[:1], [1]) == model.score(X[:1])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ([25, 16], "lengths sum to 41, but X has 40 rows"),
        ([0, 40], "every sequence needs at least one frame"),
        ([40.5], "whole numbers"),
        (["a", "b"], "whole numbers"),
    ],
)
def test_what_is_neither_is_refused(second: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GaussianHMM(2).fit(X, second)


def test_text_is_refused_by_its_column_whatever_stands_second() -> None:
    frame = pd.DataFrame({"height": X[:, 0], "name": ["a"] * 40})
    with pytest.raises(ValueError, match=r"columns \['name'\] of X are not numeric"):
        GaussianHMM(2).fit(frame, [25, 15])


@pytest.mark.parametrize(
    ("data", "words"),
    [([X[:25], X[25:]], "X is a list of sequences"), (X.reshape(2, 20, 2), "does not fit X of shape")],
)
def test_a_second_argument_that_fits_nothing_is_refused(data: Any, words: str) -> None:
    for second in ([10, 10, 20], 7):
        with pytest.raises(ValueError, match=words):
            GaussianHMM(2).fit(data, second)


def test_sequences_bring_their_own_lengths() -> None:
    with pytest.raises(ValueError, match="carries its own lengths"):
        GaussianHMM(2).fit(Sequences.from_any(X, [25, 15]), [25, 15])


# -- scikit-learn's tools


def test_a_pipeline_passes_lengths_by_position_by_prefix_and_by_routing() -> None:
    scaled = StandardScaler().fit_transform(X)
    expected = told(GaussianHMM(2, random_state=0).fit(scaled, lengths=[25, 15]))
    score = GaussianHMM(2, random_state=0).fit(scaled, lengths=[25, 15]).score(scaled, lengths=[25, 15])

    def fresh() -> Pipeline:
        return Pipeline([("scale", StandardScaler()), ("hmm", GaussianHMM(2, random_state=0))])

    assert told(fresh().fit(X, [25, 15])[-1]) == expected
    prefixed = fresh().fit(X, hmm__lengths=[25, 15])
    assert told(prefixed[-1]) == expected
    assert prefixed.score(X, [25, 15]) == score
    states = prefixed.predict(X, lengths=[25, 15])
    assert_array_equal(states, prefixed[-1].predict(scaled, [25, 15]))
    with config_context(enable_metadata_routing=True):
        routed = fresh()
        routed[-1].set_fit_request(lengths=True, labels=True).set_score_request(lengths=True)
        routed[-1].set_predict_request(lengths=True)
        assert told(routed.fit(X, lengths=[25, 15])[-1]) == expected
        assert routed.score(X, lengths=[25, 15]) == score
        assert_array_equal(routed.predict(X, lengths=[25, 15]), states)


def test_a_deep_model_may_be_a_step_of_a_pipeline() -> None:
    """Latents of an auto-encoder, then states: fit_transform hands lengths to both of its halves."""
    vae = DeepMarkovModel(2, n_hidden=3, random_state=0, **TINY)
    latents = clone(vae).fit(X, lengths=[25, 15]).transform(X, [25, 15])
    assert_array_equal(clone(vae).fit_transform(X, [25, 15]), latents)
    pipeline = make_pipeline(vae, GaussianHMM(2, random_state=0)).fit(X)
    assert pipeline.predict(X).shape == (40,)


def three_states(n_sequences: int, seed: int) -> list[np.ndarray]:
    truth = GaussianHMM(3)
    truth.startprob_, truth.transmat_ = np.full(3, 1 / 3), np.full((3, 3), 0.1) + 0.7 * np.eye(3)
    truth.means_, truth.covars_ = np.array([[-4.0], [0.0], [4.0]]), np.ones((3, 1))
    return [truth.sample(40 + seed % 7, random_state=100 * seed + i)[0] for i in range(n_sequences)]


def held_out(data: list[np.ndarray], K: int, folds: int) -> Iterator[float]:
    """Cross-validation written out: blocks of whole sequences, the rest fitted, the block scored."""
    for block in np.array_split(np.arange(len(data)), folds):
        rest = [x for i, x in enumerate(data) if i not in block]
        yield GaussianHMM(K, random_state=0, n_iter=30).fit(rest).score([data[i] for i in block])


def test_grid_search_over_sequences_finds_the_number_of_states() -> None:
    data = three_states(12, seed=1)
    search = GridSearchCV(
        GaussianHMM(random_state=0, n_iter=30), {"n_components": [1, 2, 3]}, cv=3, error_score="raise"
    ).fit(data)
    assert search.best_params_ == {"n_components": 3}
    expected = [np.mean(list(held_out(data, K, 3))) for K in (1, 2, 3)]
    assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-12)
    assert search.score(data) == search.best_estimator_.score(data)
    assert search.predict(data).shape == (sum(map(len, data)),)


def test_grid_search_over_n_iter_is_heard() -> None:
    """hmmlearn's monitor keeps the n_iter of the constructor, so that all its candidates are the same."""
    data = three_states(6, seed=2)
    options = {"random_state": 0, "n_init": 1, "tol": -np.inf}
    search = GridSearchCV(GaussianHMM(3, **options), {"n_iter": [1, 10]}, cv=2, error_score="raise").fit(data)
    few, many = search.cv_results_["mean_test_score"]
    assert few != many


def test_cross_val_score_holds_out_whole_sequences() -> None:
    data = three_states(6, seed=3)
    scores = cross_val_score(GaussianHMM(2, random_state=0, n_iter=30), data, cv=3, error_score="raise")
    assert_allclose(scores, list(held_out(data, 2, 3)), rtol=1e-12)
    # and of equal sequences in one block
    block = np.stack([x[:40] for x in data])
    targets = np.arange(6) % 2 == 0
    folds = cross_val_score(
        GaussianHMM(2, random_state=0, n_iter=30), block, targets, cv=3, error_score="raise"
    )
    assert np.isfinite(folds).all()


def test_a_weighted_score_is_the_weighted_sum() -> None:
    model = GaussianHMM(2, random_state=0).fit(X)
    parts = [model.score(X[:25]), model.score(X[25:])]
    assert model.score(X, [25, 15], sample_weight=[3, 0.5]) == pytest.approx(3 * parts[0] + 0.5 * parts[1])
    with pytest.raises(ValueError, match=r"weights.*must be 2"):
        model.score(X, [25, 15], sample_weight=[1, 1, 1])


def test_clone_keeps_requests_and_forgets_the_fit() -> None:
    with config_context(enable_metadata_routing=True):
        model = GaussianHMM(2, "full", transmat_prior=np.eye(2) + 1, random_state=0).set_fit_request(
            lengths=True
        )
        twin = clone(model.fit(X, lengths=[25, 15]))
        assert not hasattr(twin, "means_")
        assert not hasattr(twin, "n_features_in_")
        assert told(twin.fit(X, lengths=[25, 15])) == told(model)
        assert make_pipeline(StandardScaler(), twin).fit(X, lengths=[25, 15])[-1].n_features_in_ == 2


# -- columns


def test_columns_have_names_and_an_order(tmp_path: Any) -> None:
    frame = pd.DataFrame(X, columns=["height", "weight"])
    model = GaussianHMM(2, random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == ["height", "weight"]
    assert model.n_features_in_ == 2
    model.save(tmp_path / "m.dbn")
    for asked in (model, load(tmp_path / "m.dbn")):
        assert asked.score(frame) == asked.score(X)
        with pytest.raises(ValueError, match=re.escape("['weight', 'height']; this model was fitted to")):
            asked.score(frame[["weight", "height"]])
    assert not hasattr(model.fit(X), "feature_names_in_")
