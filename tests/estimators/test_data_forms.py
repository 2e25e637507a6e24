"""Weights of frames, soft labels, inputs, unseen symbols, devices: each held to a model that has none of them."""

from itertools import islice, permutations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from oracles import enumerate_posterior

import dbn_vae
from dbn_vae import (
    GMMHMM,
    HMM,
    VAEHMM,
    BernoulliHMM,
    CategoricalHMM,
    DeepMarkovModel,
    EmissionHMM,
    GaussianHMM,
    MultinomialHMM,
    PoissonHMM,
    Sequences,
    VariationalCategoricalHMM,
    VariationalGaussianHMM,
    emissions,
)
from dbn_vae.emissions import Autoregressive, GaussianPrior, LinearRegression, StudentT
from dbn_vae.estimators.devices import place, where
from dbn_vae.inference import Chain, Posterior, reference
from dbn_vae.models.hmm import labelled
from dbn_vae.sequences import Batch
from dbn_vae.training import em
from dbn_vae.transitions import Stationary

LENGTHS = [9, 4, 1, 6]
N, K = sum(LENGTHS), 3
rng = np.random.default_rng(11)
STATE = np.repeat(rng.integers(0, K, N // 2 + 1), 2)[:N]
REAL = rng.normal(size=(N, 2)) + 3 * STATE[:, None]
DATA = {
    "real": REAL,
    "counts": rng.poisson(1 + 4 * STATE[:, None] * [1, 0.5]).astype(float),
    "binary": (rng.random((N, 2)) < 0.2 + 0.3 * STATE[:, None]).astype(float),
    "symbols": (STATE[:, None] + rng.integers(0, 2, (N, 1))).astype(float),
    "rows": np.stack([rng.multinomial(5, np.eye(3)[k] * 0.4 + 0.2) for k in STATE]).astype(float),
}
SHORT: dict[str, Any] = {"random_state": 0, "n_iter": 4, "tol": -np.inf}
FAMILIES: dict[str, tuple[Any, str]] = {
    **{
        f"gaussian-{c}": (lambda c=c: GaussianHMM(K, c, **SHORT), "real")
        for c in ("diag", "spherical", "full", "tied")
    },
    "gmm": (lambda: GMMHMM(K, 2, **SHORT), "real"),
    "variational": (lambda: VariationalGaussianHMM(K, "full", **SHORT), "real"),
    "variational-symbols": (lambda: VariationalCategoricalHMM(K, n_features=4, **SHORT), "symbols"),
    "categorical": (lambda: CategoricalHMM(K, n_features=4, **SHORT), "symbols"),
    "poisson": (lambda: PoissonHMM(K, **SHORT), "counts"),
    "bernoulli": (lambda: BernoulliHMM(K, **SHORT), "binary"),
    "multinomial": (lambda: MultinomialHMM(K, 5, **SHORT), "rows"),
    "student-t": (
        lambda: EmissionHMM(StudentT(torch.zeros(K, 2).double(), torch.ones(K, 2).double(), 4.0), **SHORT),
        "real",
    ),
}
every = pytest.mark.parametrize("name", FAMILIES)
TINY: dict[str, Any] = {"hidden": (4,), "n_updates": 2, "n_pretrain": 2, "warm_up": 1, "n_samples": 2}


def fit(name: str, X: np.ndarray, **fields: Any) -> Any:
    return FAMILIES[name][0]().fit(X, lengths=LENGTHS, **fields)


def told(model: Any) -> np.ndarray:
    """Where a fit went: the objective of every update, and of every start its end."""
    return np.array([*model.monitor_.history, *model.restart_scores_])


# -- weights of frames


@pytest.mark.some(4)
@every
def test_weight_0_is_a_missing_frame_and_weight_1_is_none(name: str) -> None:
    X, weights = DATA[FAMILIES[name][1]], np.ones(N)
    out = [2, 3, 9, 17]
    holes = X.copy()
    holes[out] = np.nan
    assert_allclose(told(fit(name, X, sample_weight=weights)), told(fit(name, X)), rtol=1e-10)
    weights[out] = 0
    weighted = fit(name, X, sample_weight=weights)
    assert_allclose(told(weighted), told(fit(name, holes)), rtol=1e-8)
    assert weighted.score(X, lengths=LENGTHS, sample_weight=weights) == pytest.approx(
        weighted.score(holes, lengths=LENGTHS), rel=1e-10
    )


def random_hmm(emission: emissions.Emission) -> HMM:
    g = torch.Generator().manual_seed(3)
    A = torch.rand(K + 1, K, generator=g, dtype=torch.float64) + 0.1
    A = A / A.sum(1, keepdim=True)
    return HMM(Stationary(A[0], A[1:]), emission)


def test_a_whole_weight_is_that_many_observations_of_the_step() -> None:
    """p(x_t | s_t)^w: w blocks of a Product which share their parameters see the frame, blocks over see nothing."""
    times = rng.integers(0, 4, N)
    mean, log_scale = torch.randn(K, 2, generator=torch.Generator().manual_seed(0)).double(), 0.3

    def family() -> emissions.DiagonalGaussian:
        return emissions.DiagonalGaussian(mean, torch.full((K, 2), log_scale).double().exp())

    repeated = np.concatenate([np.where((times > copy)[:, None], REAL, np.nan) for copy in range(3)], axis=1)
    once = Sequences.from_any(REAL, LENGTHS, weights=times)
    often = Sequences.from_any(repeated, LENGTHS)
    shared = family()
    weighted, product = random_hmm(shared), random_hmm(emissions.Product([family() for _ in range(3)]))
    a, b = next(em(weighted, once)), next(em(product, often))
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-12)
    assert_allclose(a.visits, b.visits, rtol=1e-10)
    # and the statistics of the copies together are those of the weighted frame
    for model, data in ((weighted, once), (product, often)):
        list(islice(em(model, data), 2))
    assert isinstance(product.emission, emissions.Product)
    chains = [m.transition.log_transition().detach() for m in (weighted, product)]
    assert_allclose(*chains, rtol=1e-10)
    posterior = random_hmm(family()).smooth(once.batch())
    due = torch.cat([g[:n] for g, n in zip(posterior.gamma, LENGTHS, strict=True)])
    due = due * torch.as_tensor(times)[:, None]
    expected = due.T @ once.x / due.sum(0)[:, None]
    assert_allclose(shared.mean.detach(), expected.detach(), rtol=1e-8)


@pytest.mark.parametrize(
    "name", ["gaussian-diag", "gaussian-full", "categorical", "poisson", "gmm", "student-t"]
)
def test_em_ascends_the_tempered_likelihood(name: str) -> None:
    """Its value is Σ over all paths of p(s) Π p(x_t | s_t)^w_t, its updates never lose, and score is its end."""
    weights = rng.uniform(0, 2.5, N)
    model = FAMILIES[name][0]()
    model.set_params(n_iter=8, n_init=2)
    model.set_params(**({"covars_prior": 0} if name.startswith("gaussian") else {}))
    X = DATA[FAMILIES[name][1]]
    model.fit(X, lengths=LENGTHS, sample_weight=weights)
    gains = np.diff(model.monitor_.history)
    assert (gains[1:] >= -1e-9).all()
    assert model.score(X, lengths=LENGTHS, sample_weight=weights) == pytest.approx(
        model.monitor_.history[-1], rel=1e-10
    )
    data = Sequences.from_any(X, LENGTHS, weights=weights)
    batch, hmm = data.subset([1, 2]).batch(), model.state_model()
    with torch.no_grad():
        plain = hmm.emission.log_prob(batch.x, batch.observed)
        assert batch.step_weights is not None
        chain = Chain(
            hmm.transition.log_initial(), hmm.transition.log_transition(), plain * batch.step_weights[..., None],
            batch.lengths,
        )  # fmt: skip
        log_z, gamma, _ = enumerate_posterior(chain)
        assert_allclose(hmm.objective(batch), log_z, rtol=1e-10)
        assert_allclose(hmm.smooth(batch).gamma, gamma, atol=1e-10)


def test_forms_of_weights() -> None:
    weights = rng.uniform(0.5, 2, N)
    ends = np.cumsum(LENGTHS)[:-1]
    padded = np.zeros((len(LENGTHS), 9))
    padded[np.arange(9) < np.array(LENGTHS)[:, None]] = weights
    read = [
        Sequences.from_any(REAL, LENGTHS, weights=form).step_weights
        for form in (weights, np.split(weights, ends), [w.tolist() for w in np.split(weights, ends)], padded,
                     torch.as_tensor(weights))
    ]  # fmt: skip
    for form in read:
        assert form is not None
        assert_array_equal(form, weights)
    of_sequences = Sequences.from_any(REAL, LENGTHS, weights=[1, 2, 3, 4])
    assert of_sequences.step_weights is None
    assert of_sequences.weights.tolist() == [1, 2, 3, 4]
    single = Sequences.from_any(REAL[:2], [1, 1], weights=[2, 3])
    assert single.step_weights is None, "one number for each sequence of one frame is the sequence's"
    assert Sequences.from_any(REAL[:2], [1, 1], weights=[[2], [3]]).step_weights is not None


def test_weights_follow_their_frames() -> None:
    data = Sequences.from_any(REAL, LENGTHS, weights=np.arange(1.0, N + 1))
    for batch in data.batches(12):
        for row, which in enumerate(batch.which.tolist()):
            first, n = int(data.starts[which]), LENGTHS[which]
            assert batch.step_weights is not None
            assert_array_equal(batch.step_weights[row, :n], np.arange(first + 1, first + n + 1))
            assert not batch.step_weights[row, n:].any()
    picked = data.subset([3, 1]).step_weights
    assert picked is not None
    assert picked.tolist() == [*range(15, 21), *range(10, 14)]
    for other in (data.frames(), data.segments(3), data.to(dtype=torch.float64)):
        assert_array_equal(other.step_weights, data.step_weights)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.full(N, -1.0), "not all zero|non-negative"),
        (np.zeros(N), "not all zero"),
        (np.ones(N - 1), "one a sequence.*or one a frame"),
        (np.ones((N, 2)), "weights has shape"),
        ([np.ones(3), np.ones(17)], "weights has sequences of lengths"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GaussianHMM(2).fit(REAL, lengths=LENGTHS, sample_weight=weights)


@pytest.mark.parametrize("model", [VAEHMM(2, 1, **TINY), DeepMarkovModel(1, n_hidden=2, **TINY)])
def test_deep_models_weigh_sequences(model: Any) -> None:
    with pytest.raises(ValueError, match=r"one number a frame.*weighs whole sequences"):
        model.fit(REAL, lengths=LENGTHS, sample_weight=np.ones(N))


# -- soft labels


def soft_from(labels: np.ndarray) -> np.ndarray:
    """One-hot where known, and the two ways to say that it is not."""
    soft = np.where(labels[:, None] == np.arange(K), 1.0, 0.0)
    unknown = np.flatnonzero(labels < 0)
    soft[unknown[::2]], soft[unknown[1::2]] = np.nan, 0.3
    return soft


@pytest.mark.some(4)
@every
def test_one_hot_is_a_hard_label_and_equal_numbers_are_none(name: str) -> None:
    labels = np.where(rng.random(N) < 0.5, STATE, -1)
    X = DATA[FAMILIES[name][1]]
    hard, soft = (
        fit(name, X, labels=labels),
        fit(name, X, labels=soft_from(labels) * rng.uniform(0.5, 2, (N, 1))),
    )
    assert_allclose(told(soft), told(hard), rtol=1e-10)
    nothing = fit(name, X, labels=np.full((N, K), np.nan))
    assert_allclose(told(nothing), told(fit(name, X)), rtol=1e-8)


def test_a_soft_label_is_one_more_independent_observation() -> None:
    """p(x, y | s) = p(x | s) p(y | s): the same as a symbol y whose probabilities are the labels'."""
    likelihood = rng.random((N, K)) + 0.05
    mean = torch.randn(K, 2, generator=torch.Generator().manual_seed(5)).double()
    gaussian = emissions.DiagonalGaussian(mean, torch.ones(K, 2).double())
    # every frame its own symbol; p(y = n | k) ∝ likelihood[n, k], normalised over n
    table = emissions.Categorical(torch.as_tensor(likelihood / likelihood.sum(0)).T)
    both = random_hmm(emissions.Product([gaussian, table]))
    prior = random_hmm(gaussian)
    data = Sequences.from_any(np.c_[REAL, np.arange(N)], LENGTHS)
    # up to the same constants in every state of a frame: fold the normaliser of each state in
    labels = likelihood / likelihood.sum(0)
    soft = Sequences.from_any(REAL, LENGTHS, labels=labels)
    with torch.no_grad():
        a, b = both.smooth(data.batch()), prior.smooth(soft.batch())
    assert_allclose(b.gamma, a.gamma, atol=1e-12)
    assert_allclose(b.xi, a.xi, atol=1e-12)
    constant = torch.as_tensor(np.log(labels.max(1)))
    owner = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    assert_allclose(b.log_z + torch.zeros(4).double().index_add(0, owner, constant), a.log_z, rtol=1e-12)


def test_soft_labels_name_the_states() -> None:
    """Leaning towards the truth by 3 to 1 on a few frames decides which state is which."""
    truth = np.repeat(np.random.default_rng(0).integers(0, 3, 40), 5)
    X = np.random.default_rng(1).normal(size=(200, 2)) * 0.5 + np.array([[0, 0], [6, 0], [0, 6]])[truth]
    names = np.array([2, 0, 1])
    labels = np.full((200, 3), np.nan)
    for k in range(3):
        known = np.flatnonzero(truth == k)[:5]
        labels[known] = np.where(np.arange(3) == names[k], 3.0, 1.0)
    model = GaussianHMM(3, random_state=0, n_iter=50, tol=1e-4).fit(X, labels=labels)
    assert (model.predict(X) == names[truth]).mean() > 0.98


@pytest.mark.parametrize("soft", [False, True])
def test_labels_name_the_states_of_the_start(soft: bool) -> None:
    """Before any update, whatever the names: a start under others would spend its updates on exchanging states."""
    truth = np.repeat(np.random.default_rng(0).integers(0, 3, 20), 3)
    X = np.random.default_rng(1).normal(size=(60, 1)) * 0.5 + 6 * truth[:, None]
    known = np.array([np.flatnonzero(truth == k)[0] for k in range(3)])
    for names in map(np.array, permutations(range(3))):
        labels = np.full(60, -1)
        labels[known] = names
        asked = np.where(labels[:, None] < 0, np.nan, 1 + 9 * np.eye(4)[labels][:, :3]) if soft else labels
        model = GaussianHMM(3, random_state=0, n_iter=0, n_init=1).fit(X, labels=asked)
        assert_array_equal(model.predict(X), names[truth])


def test_starts_differ_in_kind() -> None:
    """Clusters with their moves counted, clusters that last, and at every fourth start chance."""
    X = (np.arange(60) % 2 * 9 + np.random.default_rng(0).normal(size=60))[:, None]
    model = GaussianHMM(2, random_state=0)
    data, generator = model.read(X), model.generator()
    starts = [model.started(data, generator, restart) for restart in range(4)]
    stays = [m.transition.log_transition().exp().diagonal().mean().item() for m in starts]
    apart = [abs(m.emission.mean.diff(dim=0).item()) for m in starts]
    assert max(stays[0], stays[2]) < 0.2, "the clusters alternate"
    assert stays[1] > 0.9, "whatever the data say"
    assert min(apart[:3]) > 8 > 3 > apart[3]


def test_forms_of_soft_labels() -> None:
    soft = rng.random((N, K))
    ends = np.cumsum(LENGTHS)[:-1]
    padded = np.ones((len(LENGTHS), 9, K))
    padded[np.arange(9) < np.array(LENGTHS)[:, None]] = soft
    expected = np.log(soft / soft.max(1, keepdims=True))
    for form in (soft, soft.tolist(), np.split(soft, ends), padded, torch.as_tensor(soft)):
        read = Sequences.from_any(REAL, LENGTHS, labels=form).labels
        assert read is not None
        assert_array_equal(read, expected)
    hard = [STATE, np.split(STATE, ends), [s.tolist() for s in np.split(STATE, ends)]]
    for form in hard:
        read = Sequences.from_any(REAL, LENGTHS, labels=form).labels
        assert read is not None
        assert_array_equal(read, STATE)
    batch = Sequences.from_any(REAL, LENGTHS, labels=soft).batch()
    assert not labelled(torch.zeros(4, 9, K).double(), batch)[1, 4:].any(), "padding knows nothing"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.ones((N, K + 1)), "labels have 4 numbers a frame, but n_components is 3"),
        (np.full((N, K), -1.0), "labels of frame 0.*not negative"),
        (np.zeros((N, K)), "labels of frame 0.*rule out every state"),
        (np.where(np.eye(N, K) > 0, np.nan, 1.0), "labels of frame 0.*finite"),
        (np.ones((N - 1, K)), "labels has shape"),
        (np.zeros((N, 1)), r"labels has shape \(20, 1\); it must be \(N,\)"),
    ],
)
def test_wrong_soft_labels_are_refused(labels: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GaussianHMM(K).fit(REAL, lengths=LENGTHS, labels=labels)


def test_a_vae_hmm_takes_soft_labels() -> None:
    labels = np.where(np.arange(N) % 2 == 0, STATE, -1)
    models = [
        VAEHMM(K, 1, random_state=0, **TINY).fit(REAL, lengths=LENGTHS, labels=form)
        for form in (labels, soft_from(labels))
    ]
    assert_allclose(models[0].transmat_, models[1].transmat_, rtol=1e-4)


# -- inputs


U = rng.normal(size=(N, 2))


def regression(n_inputs: int = 2) -> LinearRegression:
    zero, one = torch.zeros(K, 1).double(), torch.ones(K, 1, 1).double()
    return LinearRegression(zero, torch.zeros(K, 1, n_inputs).double(), one, torch.full((1,), 1e-3).double())


@pytest.fixture(scope="module")
def regressed() -> EmissionHMM:
    y = REAL[:, :1] + U @ [[1.0], [-2.0]]
    return EmissionHMM(regression(), random_state=0, n_iter=15, tol=-np.inf).fit(y, lengths=LENGTHS, inputs=U)


def test_inputs_reach_every_verb(regressed: EmissionHMM) -> None:
    """A regression is a Gaussian of what is left when W u is taken off, so each verb has a plain answer to match."""
    y = REAL[:, :1] + U @ [[1.0], [-2.0]]
    emission = regressed.model_.emission
    assert isinstance(emission, LinearRegression)
    slope = emission.slope.detach().mean(0)
    with torch.no_grad():
        emission.slope.copy_(slope)  # the same W in every state
    plain = GaussianHMM(K, "full")
    plain.startprob_ = regressed.model_.transition.log_initial().exp().detach().numpy()
    plain.transmat_ = regressed.model_.transition.log_transition().exp().detach().numpy()
    plain.means_ = emission.mean.detach().numpy()
    plain.covars_ = emission.covariance().detach().numpy()
    left = y - U @ slope.numpy().T
    fields = {"inputs": U}
    for verb in ("predict", "predict_proba", "filter"):
        ours = getattr(regressed, verb)(y, LENGTHS, **fields)
        assert_allclose(ours, getattr(plain, verb)(left, LENGTHS), atol=1e-9, err_msg=verb)
    for ours, theirs in zip(
        regressed.score_samples(y, LENGTHS, **fields), plain.score_samples(left, LENGTHS), strict=True
    ):
        assert_allclose(ours, theirs, atol=1e-9)
    assert regressed.decode(y, LENGTHS, **fields)[0] == pytest.approx(plain.decode(left, LENGTHS)[0])
    score = regressed.score(y, lengths=LENGTHS, **fields)
    assert score == pytest.approx(plain.score(left, lengths=LENGTHS))
    assert regressed.evaluate(y, LENGTHS, **fields).total == pytest.approx(score)
    free = regressed.n_parameters()
    assert regressed.aic(y, LENGTHS, **fields) == pytest.approx(2 * free - 2 * score)
    assert regressed.bic(y, LENGTHS, **fields) == pytest.approx(np.log(N) * free - 2 * score)
    drawn, states = regressed.sample(30, 4, inputs=U[:1].repeat(30, 0) * 100)
    still, same = regressed.sample(30, 4, inputs=np.zeros((30, 2)))
    assert_array_equal(states, same)
    assert_allclose(drawn - still, np.full((30, 1), 100 * float(U[0] @ slope.numpy()[0])), rtol=1e-9)


@pytest.mark.parametrize(
    "ask",
    [
        "fit",
        "score",
        "decode",
        "predict",
        "predict_proba",
        "filter",
        "evaluate",
        "score_samples",
        "aic",
        "bic",
    ],
)
def test_missing_and_unread_inputs_are_named(ask: str, regressed: EmissionHMM) -> None:
    y = REAL[:, :1]
    with pytest.raises(
        ValueError, match=r"inputs are not given, but this EmissionHMM reads 2 a frame.*\(20, 2\)"
    ):
        getattr(regressed, ask)(y)
    with pytest.raises(ValueError, match=r"inputs have 3 columns, but this EmissionHMM reads 2"):
        getattr(regressed, ask)(y, inputs=np.ones((N, 3)))
    plain = GaussianHMM(2, random_state=0, n_iter=1, tol=np.inf, n_init=1).fit(y)
    with pytest.raises(ValueError, match=r"inputs are given, but this GaussianHMM reads none.*EmissionHMM"):
        getattr(plain, ask)(y, inputs=U)
    with pytest.raises(ValueError, match="this GaussianHMM reads none"):
        getattr(plain, ask)(Sequences.from_any(y, inputs=U))


def test_inputs_of_a_sample_are_named(regressed: EmissionHMM) -> None:
    with pytest.raises(ValueError, match=r"inputs are not given, but this EmissionHMM reads 2 .*\(5, 2\)"):
        regressed.sample(5)
    with pytest.raises(ValueError, match="inputs has shape"):
        regressed.sample(5, inputs=U)
    with pytest.raises(ValueError, match="reads 0 a frame: leave them out"):
        GaussianHMM(2, random_state=0, n_init=1, n_iter=1, tol=np.inf).fit(REAL).sample(5, inputs=U[:5])


def test_who_reads_inputs() -> None:
    past = Autoregressive(
        torch.zeros(K, 1).double(), torch.zeros(K, 1, 1, 1).double(), torch.ones(K, 1, 1).double()
    )
    assert past.n_inputs == 0
    assert emissions.Product([regression(), past]).n_inputs == 2
    assert emissions.Mixture(regression(), torch.ones(1, K).double() / K).n_inputs == 2
    logistic = emissions.LogisticRegression(torch.zeros(K, 1), torch.zeros(K, 1, 4))
    assert logistic.n_inputs == 4
    assert StudentT(torch.zeros(2, 1), torch.ones(2, 1), 3.0).n_inputs == 0


# -- unseen symbols


@pytest.mark.parametrize("make", [CategoricalHMM, VariationalCategoricalHMM])
def test_unseen_symbols_are_refused_or_missing(make: Any) -> None:
    X = DATA["symbols"]
    strict = make(2, random_state=0, n_iter=3, tol=-np.inf).fit(X)
    lenient = make(2, random_state=0, n_iter=3, tol=-np.inf, unknown="ignore").fit(X)
    new, holes = X.copy(), X.copy()
    new[[2, 7, 8]] = [[4], [99], [-1]]  # 4 symbols were seen
    holes[[2, 7, 8]] = np.nan
    for verb in ("score", "predict", "predict_proba", "filter"):
        with pytest.raises(ValueError, match="unknown='ignore'"):
            getattr(strict, verb)(new)
        assert_allclose(getattr(lenient, verb)(new), getattr(strict, verb)(holes))
    with pytest.raises(ValueError, match=r"X holds \d\.5"):
        lenient.score(X + 1.5)
    with pytest.raises(ValueError, match=r"symbols are 0 to 1; give n_features"):
        make(2, n_features=2, unknown="ignore").fit(X)  # what is learnt from is never dropped
    with pytest.raises(ValueError, match="unknown='drop'; it is 'error' or 'ignore'"):
        make(2, unknown="drop").fit(X)


# -- devices


def test_words_for_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert where("auto") == where("cpu") == torch.device("cpu")
    for model in (GaussianHMM(2, device="cuda"), EmissionHMM(regression(0), device="cuda")):
        with pytest.raises(ValueError, match=r"device='cuda'.*no CUDA GPU.*device='cpu' or 'auto'"):
            model.fit(REAL[:, :1])
    with pytest.raises(ValueError, match="device='tpu'; it is 'cpu', 'cuda' or 'auto'"):
        GaussianHMM(2, device="tpu").fit(REAL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert where("auto") == where("cuda") == torch.device("cuda")
    assert where("cuda:1") == torch.device("cuda", 1)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Every tensor that an object holds, however deep."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_of(v)]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_of(v)]
    if isinstance(value, torch.nn.Module):
        return tensors_of(vars(value))
    return []


@every
def test_every_tensor_goes_to_the_device(name: str) -> None:
    """To the device that has no memory, for want of a GPU: a tensor left behind would show all the same."""
    made = FAMILIES[name][0]()
    data = made.read(DATA[FAMILIES[name][1]], LENGTHS, labels=STATE, weights=np.ones(N))
    model = made.started(data, torch.Generator().manual_seed(0), 0)
    assert len(tensors_of(model)) >= 4
    place(model, torch.device("meta"), torch.float64)
    there = data.to(dtype=torch.float64, device="meta")
    assert {t.device.type for t in tensors_of(model)} == {"meta"}
    assert {t.device.type for t in tensors_of(vars(there))} == {"meta"}


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "variational"])
def test_an_update_happens_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EM on tensors without memory, the scalars that it reads made up: a tensor of the host in between is refused."""
    made = FAMILIES[name][0]()
    data = made.read(DATA[FAMILIES[name][1]])
    model = made.started(data, torch.Generator().manual_seed(0), 0)
    meta = torch.device("meta")
    place(model, meta, torch.float64)
    every_step = (torch.zeros(N, dtype=torch.int64, device=meta), torch.arange(N, device=meta))
    monkeypatch.setattr(
        Batch, "mask", property(lambda batch: every_step)
    )  # its values decide shapes, which meta has not
    monkeypatch.setattr(reference, "smooth", lambda chain: Posterior(
        chain.log_emission.sum((1, 2)), chain.log_emission.exp(), chain.log_transition.exp().expand(1, K, K)
    ))  # fmt: skip
    for scalar, value in (("__bool__", False), ("__float__", 0.0), ("item", 0.0)):
        monkeypatch.setattr(torch.Tensor, scalar, lambda tensor, value=value: value)
    steps = em(model, data.to(dtype=torch.float64, device=meta))
    visits = [next(steps).visits for _ in range(2)]
    monkeypatch.undo()
    assert {v.device for v in visits} == {meta}
    assert {t.device for t in tensors_of(model)} == {meta}


def test_a_placed_prior_is_the_same_prior() -> None:
    emission = emissions.DiagonalGaussian(
        torch.zeros(K, 2), torch.ones(K, 2), GaussianPrior(torch.ones(K, 2), 2.0, torch.ones(2), 1.0)
    )
    place(emission, torch.device("cpu"), torch.float64)
    assert isinstance(emission.prior, GaussianPrior)
    assert {t.dtype for t in tensors_of(emission) if t.is_floating_point()} == {torch.float64}
    assert emission.held.dtype == torch.bool


def test_a_device_is_a_hyper_parameter_like_another(tmp_path: Any) -> None:
    model = GaussianHMM(2, device="auto", random_state=0, n_iter=2, tol=-np.inf).fit(REAL)
    model.save(tmp_path / "m.dbn")
    again = dbn_vae.load(tmp_path / "m.dbn")
    assert again.get_params()["device"] == "auto"
    assert again.score(REAL) == model.score(REAL)
