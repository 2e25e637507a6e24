"""EmissionHMM is held to the classical estimators it contains, and its file to the model in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from torch import Tensor, nn

import dbn_vae
from dbn_vae import (
    HMM,
    BernoulliHMM,
    CategoricalHMM,
    EmissionHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    emissions,
)
from dbn_vae.estimators.described import describe, rebuild
from dbn_vae.transitions import PoissonDuration, SemiMarkov, Stationary, sticky

LENGTHS = [60, 35, 25]
N, K = sum(LENGTHS), 2
rng = np.random.default_rng(2)
STATE = np.repeat(rng.integers(0, K, N // 5), 5)
REAL = rng.normal(size=(N, 2)) + 3 * STATE[:, None]
U = rng.normal(size=(N, 1))
DATA = {
    "real": REAL,
    "positive": np.exp(REAL / 2),
    "counts": rng.poisson(1 + 6 * STATE[:, None] * [1, 0.5]).astype(float),
    "binary": (rng.random((N, 2)) < 0.2 + 0.6 * STATE[:, None]).astype(float),
    "symbols": np.minimum(STATE[:, None] + rng.integers(0, 2, (N, 1)), 2).astype(float),
    "rows": np.stack([rng.multinomial(5, [0.2 + 0.4 * k, 0.3, 0.5 - 0.4 * k]) for k in STATE]).astype(float),
}
VARIANCE = torch.as_tensor(REAL.var(0))


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def spread(*shape: int) -> Tensor:
    """Values that differ, so that parts do."""
    return torch.linspace(0.2, 1.4, int(np.prod(shape)), dtype=torch.float64).view(*shape)


def rows(*shape: int) -> Tensor:
    value = spread(*shape)
    return value / value.sum(-1, keepdim=True)


class Logistic(emissions.Emission):
    """A family of a user's own: log_prob alone, and an attribute of every kind that a file may hold."""

    def __init__(self, centre: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_features = centre.shape
        self.centre = nn.Parameter(centre.clone())
        self.log_scale = nn.Parameter(torch.zeros_like(centre))
        self.facts = {"sizes": [1, 2.5], "names": ("a", None), "prior": torch.ones(2), "on": True}
        self.net = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).requires_grad_(False)
        nn.init.constant_(self.net[0].weight, 0.5)
        nn.init.constant_(self.net[0].bias, 0.5)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        z = (x[..., None, :] - self.centre) / self.log_scale.exp()
        entry = -z - self.log_scale - 2 * nn.functional.softplus(-z)
        return (entry * observed[..., None, :]).sum(-1)


# template, the data it takes, inputs
TEMPLATES: dict[str, tuple[Any, str, Any]] = {
    "full": (lambda: emissions.FullGaussian(spread(K, 2), torch.eye(2).double().repeat(K, 1, 1)), "real", None),
    "tied": (lambda: emissions.TiedGaussian(spread(K, 2), torch.eye(2).double()), "real", None),
    "low-rank": (lambda: emissions.LowRankGaussian(spread(K, 2), spread(K, 2, 1), 1 + zeros(K, 2)), "real", None),
    "student-t": (lambda: emissions.StudentT(spread(K, 2), 1 + zeros(K, 2), 5.0), "real", None),
    "log-normal": (
        lambda: emissions.LogNormal(emissions.DiagonalGaussian(zeros(K, 2), 1 + zeros(K, 2))), "positive", None,
    ),
    "gamma": (lambda: emissions.Gamma(1 + zeros(K, 2), 1 + zeros(K, 2)), "positive", None),
    "categorical": (lambda: emissions.Categorical(rows(K, 3)), "symbols", None),
    "zero-inflated": (
        lambda: emissions.ZeroInflated(emissions.Poisson(spread(K, 2)), 0.3 + zeros(K, 2)), "counts", None,
    ),
    "negative-binomial": (lambda: emissions.NegativeBinomial(1 + spread(K, 2), spread(K, 2)), "counts", None),
    "mixture": (
        lambda: emissions.Mixture(emissions.DiagonalGaussian(3 * spread(2 * K, 2), 1 + zeros(2 * K, 2)), rows(K, 2)),
        "real", None,
    ),
    "product": (
        lambda: emissions.Product(
            [emissions.DiagonalGaussian(spread(K, 1), 1 + zeros(K, 1)), Logistic(spread(K, 1))], [[1], [0]]
        ),
        "real", None,
    ),
    "regression": (
        lambda: emissions.LinearRegression(zeros(K, 2), zeros(K, 2, 1), torch.eye(2).double().repeat(K, 1, 1)),
        "real", U,
    ),
    "logistic-regression": (lambda: emissions.LogisticRegression(zeros(K, 2), zeros(K, 2, 1), 1.0), "binary", U),
    "autoregressive": (
        lambda: emissions.Autoregressive(zeros(K, 2), zeros(K, 1, 2, 2), torch.eye(2).double().repeat(K, 1, 1)),
        "real", None,
    ),
    "own": (lambda: Logistic(spread(K, 2)), "real", None),
}  # fmt: skip
every = pytest.mark.parametrize("name", TEMPLATES)
SHORT: dict[str, Any] = {"random_state": 0, "n_iter": 2, "tol": -np.inf, "n_init": 2}


def fitted(name: str, **options: Any) -> tuple[EmissionHMM, np.ndarray, dict[str, Any]]:
    make, kind, inputs = TEMPLATES[name]
    asked = {"inputs": inputs}
    model = EmissionHMM(make(), **{"transition": sticky(K)} | SHORT | options)
    return model.fit(DATA[kind], lengths=LENGTHS, **asked), DATA[kind], asked


def answers(model: EmissionHMM, X: np.ndarray, asked: dict[str, Any]) -> list[np.ndarray]:
    verbs = (model.predict_proba, model.filter, model.predict)
    found = [verb(X, LENGTHS, **asked) for verb in verbs]
    return [*found, np.array([model.score(X, lengths=LENGTHS, **asked), model.bic(X, LENGTHS, **asked)])]


@pytest.mark.parametrize(
    ("kind", "family", "classical"),
    [
        (
            "real",
            lambda: emissions.DiagonalGaussian(zeros(K, 2), 1 + zeros(K, 2), floor=1e-3 * VARIANCE),
            lambda **o: GaussianHMM(K, "diag", covars_prior=0, **o),
        ),
        (
            "real",
            lambda: emissions.FullGaussian(zeros(K, 2), torch.eye(2).double().repeat(K, 1, 1), floor=1e-3 * VARIANCE),
            lambda **o: GaussianHMM(K, "full", covars_prior=0, **o),
        ),
        ("counts", lambda: emissions.Poisson(1 + zeros(K, 2)), lambda **o: PoissonHMM(K, **o)),
        ("binary", lambda: emissions.Bernoulli(0.5 + zeros(K, 2)), lambda **o: BernoulliHMM(K, **o)),
        (
            "symbols",
            lambda: emissions.Categorical(rows(K, 3), 1.5),
            lambda **o: CategoricalHMM(K, emissionprob_prior=1.5, **o),
        ),
        (
            "rows",
            lambda: emissions.Multinomial(rows(K, 3), 5, 1.5),
            lambda **o: MultinomialHMM(K, 5, emissionprob_prior=1.5, **o),
        ),
    ],
)  # fmt: skip
def test_over_a_classical_family_it_is_the_classical_estimator(
    kind: str, family: Any, classical: Any
) -> None:
    """The same starts, updates, scores, states and numbers of parameters; with weights and holes."""
    X = DATA[kind].copy()
    X[[4, 77]] = np.nan
    options = {"n_iter": 6, "tol": -np.inf, "n_init": 4, "random_state": 3}
    ours, theirs = EmissionHMM(family(), **options), classical(**options)
    ours.fit(X, lengths=LENGTHS, sample_weight=[1, 2, 0.5])
    theirs.fit(X, lengths=LENGTHS, sample_weight=[1, 2, 0.5])
    assert_allclose(ours.monitor_.history, theirs.monitor_.history, rtol=1e-9)
    assert_allclose(ours.restart_scores_, theirs.restart_scores_, rtol=1e-9)
    assert ours.n_parameters() == theirs.n_parameters()
    theirs.align_to(
        ours, X, LENGTHS
    )  # two starts may end in one optimum, and rounding choose between their names of the states
    assert_allclose(ours.predict_proba(X, LENGTHS), theirs.predict_proba(X, LENGTHS), atol=1e-7)
    assert_array_equal(ours.decode(X, LENGTHS)[1], theirs.decode(X, LENGTHS)[1])
    assert ours.aic(X, LENGTHS) == pytest.approx(theirs.aic(X, LENGTHS))
    if kind != "rows":
        drawn = [m.sample(8, random_state=1) for m in (ours, theirs)]
        assert_allclose(drawn[0][0], drawn[1][0], rtol=1e-6)
        assert_array_equal(drawn[0][1], drawn[1][1])


def test_priors_are_those_of_the_classical_estimator() -> None:
    rates = spread(K, 2) * 4
    options = {
        "n_iter": 5,
        "tol": -np.inf,
        "startprob_prior": 1.5,
        "transmat_prior": [[9.0, 1.0], [1.0, 3.0]],
    }
    ours = EmissionHMM(emissions.Poisson(rates), init="given", **options)
    theirs = PoissonHMM(K, init_params="", **options)
    theirs.startprob_, theirs.transmat_, theirs.lambdas_ = (
        np.full(2, 0.5),
        np.full((2, 2), 0.5),
        rates.numpy(),
    )
    for model in (ours, theirs):
        model.fit(DATA["counts"], lengths=LENGTHS)
    assert_allclose(ours.monitor_.history, theirs.monitor_.history, rtol=1e-12)
    assert_allclose(ours.model_.transition.log_transition().exp().detach(), theirs.transmat_, rtol=1e-10)


@pytest.mark.some(4)
@every
def test_templates_stay_and_a_file_says_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    make, _, inputs = TEMPLATES[name]
    model, X, asked = fitted(name)
    for mine, fresh in ((model.emission, make()), (model.transition, sticky(K))):
        assert mine is not None
        assert mine.state_dict().keys() == fresh.state_dict().keys()
        for key, value in fresh.state_dict().items():
            assert_array_equal(mine.state_dict()[key], value, err_msg=f"the template's {key} was changed")
    assert model.model_.emission is not model.emission
    model.save(tmp_path / "m.dbn")
    again = dbn_vae.load(tmp_path / "m.dbn")
    assert isinstance(again, EmissionHMM)
    for a, b in zip(answers(again, X, asked), answers(model, X, asked), strict=True):
        assert_array_equal(a, b)
    assert again.monitor_.history == model.monitor_.history
    assert again.n_parameters() == model.n_parameters()
    # the templates came along: a copy fits as the first did
    refit = clone(again).fit(X, lengths=LENGTHS, **asked)
    assert refit.monitor_.history == model.monitor_.history
    if name not in ("own", "product"):
        drawn = [m.sample(5, 0, inputs=None if inputs is None else inputs[:5])[0] for m in (again, model)]
        assert_array_equal(*drawn)


@every
def test_em_ascends(name: str) -> None:
    model, X, asked = fitted(name, transition=None, n_iter=6, n_init=1)  # no prior beside the likelihood
    assert (np.diff(model.monitor_.history) > -1e-6).all()
    assert model.score(X, lengths=LENGTHS, **asked) == pytest.approx(model.monitor_.history[-1], rel=1e-10)


def test_one_method_is_a_whole_estimator() -> None:
    """Told nothing but log_prob, it finds two states that are there, from restarts, in single precision as well."""
    template = Logistic(torch.zeros(K, 2))
    model = EmissionHMM(template, random_state=0, n_iter=20).fit(REAL, lengths=LENGTHS)
    assert len(model.restart_scores_) == 4
    assert model.monitor_.history[-1] == max(model.restart_scores_)
    found = model.predict(REAL, LENGTHS)
    assert max((found == STATE).mean(), (found != STATE).mean()) > 0.95
    assert model.n_parameters() == 8 + 1 + 2
    with pytest.raises(NotImplementedError, match="define distribution or sample"):
        model.sample(3)


def test_templates_in_single_precision_are_fitted_in_double() -> None:
    model = EmissionHMM(emissions.Poisson(torch.ones(K, 2)), sticky(K, dtype=torch.float32), **SHORT)
    model.fit(DATA["counts"], lengths=LENGTHS)
    assert {p.dtype for p in model.model_.parameters()} == {torch.float64}
    assert {p.dtype for p in model.emission.parameters()} == {torch.float32}


def test_given_templates_are_the_start() -> None:
    chain = Stationary(torch.tensor([0.9, 0.1]).double(), torch.tensor([[0.8, 0.2], [0.3, 0.7]]).double())
    emission = emissions.DiagonalGaussian(torch.tensor([[0.0, 0.0], [3.0, 3.0]]).double(), 1 + zeros(K, 2))
    at_start = EmissionHMM(emission, chain, init="given", n_iter=0, n_init=5).fit(REAL, lengths=LENGTHS)
    data = dbn_vae.Sequences.from_any(REAL, LENGTHS)
    expected = float(HMM(chain, emission).objective(data.batch()).sum().detach())
    assert at_start.restart_scores_ == [pytest.approx(expected, rel=1e-12)]
    assert_array_equal(at_start.model_.emission.mean.detach(), emission.mean.detach())
    learnt = EmissionHMM(emission, chain, init="given", n_iter=3, tol=-np.inf).fit(REAL, lengths=LENGTHS)
    assert learnt.monitor_.history[0] == pytest.approx(expected, rel=1e-12)
    assert learnt.monitor_.history[-1] > expected


def test_what_a_template_forbids_and_freezes_is_kept() -> None:
    left_to_right = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()
    chain = Stationary(torch.tensor([1.0, 0.0]).double(), left_to_right)
    emission = emissions.DiagonalGaussian(spread(K, 2), 0.5 + zeros(K, 2))
    emission.frozen = frozenset({"covariance"})
    model = EmissionHMM(emission, chain, **SHORT).fit(REAL, lengths=LENGTHS)
    A = model.model_.transition.log_transition().exp().detach().numpy()
    assert A[1].tolist() == [0, 1]
    assert 0 < A[0, 0] < 1
    assert (model.model_.emission.covariance().diagonal(dim1=1, dim2=2) == 0.5).all()
    assert model.n_parameters() == 4 + 1  # the means, and how long the first state lasts
    assert (np.diff(model.predict(REAL[:60])) >= 0).all()
    chain.frozen = frozenset({"initial", "transition"})
    fixed = EmissionHMM(emission, chain, **SHORT).fit(REAL, lengths=LENGTHS)
    assert_allclose(fixed.model_.transition.log_transition().exp().detach(), left_to_right, atol=1e-15)


def test_spreads_held_at_the_floor_are_told() -> None:
    """Half of the frames are one and the same number, on which a state would collapse."""
    X = np.where(STATE[:, None] == 0, 1.0, REAL[:, :1] + 5)
    template = emissions.StudentT(zeros(2, 1), 1 + zeros(2, 1), 5.0, floor=torch.full((1,), 1e-4).double())
    with pytest.warns(
        UserWarning, match="EmissionHMM.* spread of states .* held at the floor of the emission"
    ):
        model = EmissionHMM(template, random_state=0).fit(X)
    (held,) = model.model_.emission.floored
    assert model.model_.emission.scale()[held].item() == pytest.approx(1e-2)


def test_scikit_learn_sees_hyper_parameters() -> None:
    model = fitted("student-t")[0]
    twin = clone(model)
    assert twin.emission is not model.emission
    assert_array_equal(twin.emission.loc.detach(), model.emission.loc.detach())
    assert not hasattr(twin, "model_")
    twin.set_params(emission=emissions.Poisson(1 + zeros(3, 2)), transition=None, n_iter=1)
    assert twin.fit(DATA["counts"]).predict_proba(DATA["counts"]).shape == (N, 3)
    assert twin.n_states == 3


def test_parts_read_the_same_inputs() -> None:
    chain = sticky(K)
    chain.n_inputs = 3
    with pytest.raises(ValueError, match=r"read \[1, 3\] inputs a frame.*must agree"):
        EmissionHMM(TEMPLATES["regression"][0](), chain).fit(REAL, inputs=U)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: EmissionHMM(emissions.Poisson), TypeError, "emission=.*must be a module of dbn_vae.emissions"),
        (lambda: EmissionHMM(2), TypeError, "emission=2; it must be"),
        (lambda: EmissionHMM(Logistic(zeros(K, 2)), nn.Linear(1, 1)), TypeError, "transition=.*dbn_vae.transitions"),
        (
            lambda: EmissionHMM(Logistic(zeros(K, 2)), SemiMarkov(
                Stationary(zeros(K) + 0.5, 1 - torch.eye(2).double()), PoissonDuration(1 + zeros(K), 5)
            )),
            TypeError, "transition is a SemiMarkov; for durations of stays there is dbn_vae.HSMM",
        ),
        (lambda: EmissionHMM(Logistic(zeros(K, 2)), sticky(3)), ValueError, "transition has 3 states, emission 2"),
        (lambda: EmissionHMM(Logistic(zeros(K, 3))), ValueError, "X has 2 features, but EmissionHMM is expecting 3"),
        (lambda: EmissionHMM(Logistic(zeros(K, 2)), init="best"), ValueError, "init='best'; it is 'data' or 'given'"),
        (lambda: EmissionHMM(Logistic(zeros(K, 2)), n_init=0), ValueError, "n_init=0; it must be a whole number"),
        (
            lambda: EmissionHMM(Logistic(zeros(K, 2)), sticky(K), transmat_prior=2.0),
            ValueError, r"transmat_prior=2\.0 beside a transition.*set it there",
        ),
        (lambda: EmissionHMM(emissions.Poisson(1 + zeros(K, 2))), ValueError, "X holds .*Poisson"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_words(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make().fit(REAL, lengths=LENGTHS)


def test_a_file_runs_no_code_and_names_what_it_cannot_hold() -> None:
    tensors, facts = describe(Logistic(spread(K, 2)), "emission")
    again = rebuild(facts, tensors)
    assert isinstance(again, Logistic)
    assert again.facts["sizes"] == [1, 2.5]
    assert again.facts["names"] == ("a", None)
    assert isinstance(again.net[1], nn.Tanh)
    assert [p.requires_grad for p in again.parameters()] == [True, True, False, False]
    with pytest.raises(
        ValueError, match=r"class 'Missing' of 'elsewhere'.*import or define the class before loading"
    ):
        rebuild(facts | {"class": "Missing", "module": "elsewhere"}, tensors)
    with pytest.raises(ValueError, match="class 'print' of 'builtins'"):
        rebuild(facts | {"class": "print", "module": "builtins"}, tensors)
    clever = Logistic(spread(K, 2))
    clever.facts["function"] = len  # type: ignore[assignment]
    with pytest.raises(TypeError, match="cannot save the attribute 'facts', a builtin_function"):
        describe(clever, "emission")
