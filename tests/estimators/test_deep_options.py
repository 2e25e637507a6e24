"""Options of the deep estimators: frames that read the frame before, stays with a distribution of their own."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dbn_vae import VAEHMM, DeepMarkovModel, SwitchingDMM, load
from dbn_vae.evaluation import matched_accuracy

TINY: dict[str, Any] = {
    "hidden": (6,), "n_updates": 3, "n_pretrain": 3, "warm_up": 1, "batch_size": 4, "n_samples": 3, "random_state": 0,
    "device": "cpu",
}  # fmt: skip


def test_an_emission_that_reads_the_frame_before_follows_data_that_remember_it(tmp_path: Any) -> None:
    """Notes that are held or struck at random, twelve of them, are more than two latents can carry."""
    rng = np.random.default_rng(0)
    flips = rng.random((40, 6, 12)) < 0.08
    X = (np.cumsum(flips, 1) + rng.integers(0, 2, (40, 1, 12))) % 2.0
    X[3, 2:4] = np.nan
    X[4, :, 2] = np.nan
    options = TINY | {
        "n_updates": 60,
        "n_pretrain": 20,
        "learning_rate": 5e-2,
        "likelihood": "bernoulli",
        "n_samples": 20,
    }
    scores = {}
    for autoregressive in (False, True):
        model = DeepMarkovModel(
            2, n_hidden=4, inference="mean-field", autoregressive=autoregressive, **options
        ).fit(X)
        scores[autoregressive] = model.evaluate(X).per_frame
    assert scores[True] > scores[False] + 1, scores
    filled = model.reconstruct(X)
    assert filled.shape == (240, 12)
    assert not np.isnan(filled).any()
    assert model.sample(5, random_state=0)[0].shape == (5, 12)
    model.save(tmp_path / "m.dbn")
    assert_allclose(load(tmp_path / "m.dbn").reconstruct(X), filled, atol=1e-6)


def test_weights_lean_to_their_prior_in_training_alone() -> None:
    X = np.random.default_rng(0).normal(size=(8, 10, 2))

    def fitted(weight_decay: float, **options: Any) -> DeepMarkovModel:
        more = {"init": "drift", "validation": 0, "weight_decay": weight_decay}
        return DeepMarkovModel(2, n_hidden=4, **TINY | more | options).fit(X)

    def length(model: DeepMarkovModel) -> float:
        return float(torch.cat([p.detach().flatten() for p in model.module_.parameters()]).norm())

    still, held = (fitted(w, n_updates=0, n_pretrain=0) for w in (0.0, 1e4))
    assert still.score(X) == held.score(X)
    free, held = (fitted(w, n_updates=30, n_pretrain=0, learning_rate=0.2) for w in (0.0, 1e4))
    assert length(held) < 0.5 * length(still) < 0.5 * length(free)
    with pytest.raises(ValueError, match=r"weight_decay=-1\.0; it must be a number from 0"):
        fitted(-1.0)


def test_an_emission_blind_to_the_frame_before_answers_as_a_plain_one() -> None:
    """As it starts: the same numbers, drawn in the same order.  With weights it goes on from the last frame."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (5, 4, 3)).astype(float)
    X[0, 1] = X[1, 3] = X[2, 2, 0] = np.nan
    options = TINY | {"n_updates": 0, "likelihood": "bernoulli"}
    plain, reads = (DeepMarkovModel(2, n_hidden=4, autoregressive=a, **options).fit(X) for a in (False, True))
    shared = {
        k.replace("core.decoder.0.", "core.decoder.latent."): v for k, v in plain.module_.state_dict().items()
    }
    shared = {k.replace("core.decoder.", "core.decoder.rest.") if ".decoder.2" in k or ".decoder.1" in k else k: v
              for k, v in shared.items()}  # fmt: skip
    shared = {k.replace("rest.2", "rest.1"): v for k, v in shared.items()}
    blind = reads.module_.core.decoder.context.weight
    reads.module_.load_state_dict(shared | {"core.decoder.context.weight": torch.zeros_like(blind)})

    def answers(model: Any) -> list[np.ndarray]:
        f = model.forecast(X, horizon=3, n_samples=4, random_state=1)
        return [f.samples, f.mean, model.impute(X, n_samples=7, random_state=1), model.anomaly_scores(X)]

    for a, b in zip(answers(plain), answers(reads), strict=True):
        assert_allclose(a, b, atol=1e-6)
    with torch.no_grad():
        reads.module_.core.decoder.latent.weight.zero_()
        reads.module_.core.decoder.rest[-1].weight.fill_(20)
        reads.module_.core.decoder.rest[-1].bias.fill_(0)
        reads.module_.core.decoder.latent.bias.fill_(-5)
        blind[:, 0] = 10.0  # all columns now repeat the first one
    held = reads.forecast(X, horizon=3, n_samples=4, random_state=1).samples
    assert (held[:, [0, 2, 3, 4]] == X[None, [0, 2, 3, 4], -1, None, :1]).all()
    assert (held[:, 1] == 0).all()  # of the last frame nothing was seen


FAMILIES = ("categorical", "poisson", "negative_binomial", "geometric")
STAYS: dict[str, Any] = {
    "vae-hmm": lambda kind: VAEHMM(2, 1, durations=kind, max_duration=12, min_duration=2, **TINY),
    "switching-dmm": lambda kind: SwitchingDMM(
        2, 1, durations=kind, max_duration=12, inference="product-filter", n_hidden=4, **TINY
    ),
}


def regular(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stays of four and of seven frames in turn, seen through noise; and the states."""
    states = np.tile(np.repeat([0, 1], [4, 7]), n // 11 + 1)[:n]
    return (np.array([-1.0, 1.0])[states] + 0.7 * rng.normal(size=n))[:, None], states


def ended(path: np.ndarray) -> list[int]:
    """Lengths of the stays that a path shows as a whole."""
    return [len(list(run)) for _, run in groupby(path)][:-1]


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("vae-hmm", kind) for kind in FAMILIES), *(("switching-dmm", kind) for kind in FAMILIES[:2])],
)
def test_stays_answer_every_verb_and_are_kept_in_files(name: str, kind: str, tmp_path: Any) -> None:
    X, _ = regular(66, np.random.default_rng(0))
    lengths = [30, 20, 16]
    model = STAYS[name](kind).fit(X, lengths=lengths)
    assert_allclose(model.durations_.sum(1), 1, rtol=1e-5)
    assert_allclose(model.durations_ @ np.arange(1, 13), model.mean_durations_, rtol=1e-5)
    assert_allclose(model.transmat_, [[0, 1], [1, 0]], atol=1e-6)
    gamma, online = model.predict_proba(X, lengths), model.filter(X, lengths)
    assert_allclose(gamma.sum(1), 1, rtol=1e-4)
    last = np.cumsum(lengths) - 1
    assert_allclose(online[last], gamma[last], atol=1e-4)
    log_q, path = model.decode(X, lengths)
    assert log_q <= 1e-3
    runs = [d for part in np.split(path, last[:-1] + 1) for d in ended(part)]
    assert all((2 if name == "vae-hmm" else 1) <= run <= 12 for run in runs), runs
    assert np.isfinite([model.score(X, lengths=lengths, method=m) for m in ("elbo", "iwae", "smc")]).all()
    model.save(tmp_path / "m.dbn")
    again = load(tmp_path / "m.dbn")
    assert_allclose(again.predict_proba(X, lengths), gamma, atol=1e-6)
    assert_allclose(again.durations_, model.durations_)
    frames, states = model.sample(200, random_state=0)
    assert frames.shape == (200, 1)
    if name == "vae-hmm":
        assert min(ended(states)) >= 2


def test_training_finds_the_lengths_of_stays() -> None:
    X, states = regular(660, np.random.default_rng(1))
    options = TINY | {
        "n_updates": 60,
        "n_pretrain": 60,
        "hidden": (8,),
        "learning_rate": 1e-2,
        "max_length": 66,
    }
    model = VAEHMM(2, 1, durations="poisson", max_duration=15, **options).fit(X)
    plain = VAEHMM(2, 1, **options).fit(X)
    assert_allclose(sorted(model.mean_durations_), [4, 7], atol=0.7)
    assert matched_accuracy(states, model.predict(X)) > matched_accuracy(states, plain.predict(X))
    assert model.score(X, n_samples=50) > plain.score(X, n_samples=50) + 20


def test_what_durations_cannot_do_is_said() -> None:
    X, _ = regular(44, np.random.default_rng(0))
    with pytest.raises(AttributeError, match="fit with durations="):
        VAEHMM(2, 1, **TINY).fit(X).durations_  # noqa: B018
    for wrong, message in (
        ({"durations": "gamma"}, r"durations='gamma'.*'categorical', 'poisson'"),
        ({"durations": "poisson", "max_duration": 3, "min_duration": 5}, "min_duration=5, max_duration=3"),
        ({"durations": "poisson", "n_components": 1}, "n_components=1; it must be a whole number from 2"),
    ):
        with pytest.raises(ValueError, match=message):
            VAEHMM(**{"n_components": 2, "n_latent": 1} | TINY | wrong).fit(X)
    with pytest.raises(ValueError, match="durations='poisson' beside inputs"):
        VAEHMM(2, 1, durations="poisson", **TINY).fit(X, inputs=X)


@pytest.mark.parametrize("given", [False, True])
def test_states_that_z_drives_answer_every_verb_and_are_kept_in_files(given: bool, tmp_path: Any) -> None:
    X, _ = regular(66, np.random.default_rng(0))
    lengths, u = [30, 20, 16], X[::-1].copy() if given else None
    options = TINY | {"inference": "product-filter", "n_hidden": 4}
    model = SwitchingDMM(2, 2, recurrent=True, **options).fit(X, lengths=lengths, inputs=u)
    assert model.module_.transition.n_inputs == 2 + given
    assert model.transmat_.shape == (2, 2)
    gamma = model.predict_proba(X, lengths, inputs=u)
    last = np.cumsum(lengths) - 1
    assert_allclose(model.filter(X, lengths, inputs=u)[last], gamma[last], atol=1e-4)
    assert_allclose(model.posterior(X, lengths, inputs=u).smoothed, gamma, atol=1e-5)
    scores = [model.score(X, lengths=lengths, inputs=u, method=m) for m in ("elbo", "iwae", "smc")]
    assert np.isfinite(scores).all()
    model.save(tmp_path / "m.dbn")
    assert_allclose(load(tmp_path / "m.dbn").predict_proba(X, lengths, inputs=u), gamma, atol=1e-6)
    assert model.sample(9, random_state=0, inputs=None if u is None else u[:9])[1].shape == (9,)
    with pytest.raises(ValueError, match="durations='poisson' beside inputs or recurrent=True"):
        SwitchingDMM(2, 2, recurrent=True, durations="poisson", **options).fit(X)


def test_decoding_the_likeliest_states_alone_lowers_a_score_a_little() -> None:
    X, _ = regular(110, np.random.default_rng(0))
    fits = [VAEHMM(4, 1, top_k=k, **TINY).fit(X) for k in (None, 4)]
    assert fits[0].score(X) == fits[1].score(X)
    low = VAEHMM(4, 1, top_k=1, **TINY | {"n_updates": 0}).fit(X)
    whole = VAEHMM(4, 1, **TINY | {"n_updates": 0}).fit(X)
    assert low.score(X, n_samples=50) < whole.score(X, n_samples=50)
    assert_allclose(low.predict_proba(X), whole.predict_proba(X), atol=1e-6)
    for wrong, message in (
        ({"top_k": 0}, "top_k=0; it must be a whole number from 1"),
        ({"top_k": 2, "inference": "sampled"}, "top_k=2 beside inference='sampled'"),
    ):
        with pytest.raises(ValueError, match=message):
            VAEHMM(4, 1, **TINY | wrong).fit(X)


@pytest.mark.parametrize("inference", ["exact", "sampled", "analytic"])
def test_offsets_of_states_begin_as_nothing_and_are_learnt(inference: str, tmp_path: Any) -> None:
    """Two chords, the notes of each louder or fainter together."""
    rng = np.random.default_rng(0)
    states = np.repeat(rng.integers(0, 2, (20, 3)), 6, axis=1)
    chords = np.array([[3.0, 3, -3, -3, 0, 0], [-3.0, -3, 3, 3, 0, 0]])
    logits = chords[states] + 2 * rng.normal(size=(20, 18, 1))
    X = (rng.random((20, 18, 6)) < 1 / (1 + np.exp(-logits))).astype(float)
    X[0, 3] = X[1, 2, 4] = np.nan
    options = TINY | {"likelihood": "bernoulli", "inference": inference, "n_samples": 20}
    plain, before = (
        VAEHMM(2, 1, state_offset=on, **options | {"n_updates": 0}).fit(X) for on in (False, True)
    )
    assert before.score(X) == pytest.approx(plain.score(X), rel=1e-5)
    assert_allclose(before.reconstruct(X), plain.reconstruct(X), atol=1e-5)
    longer = {"n_updates": 60, "learning_rate": 0.1, "n_pretrain": 60}
    model = VAEHMM(2, 1, state_offset=True, **options | longer).fit(X)
    assert model.module_.offset.abs().max() > 0.1
    model.save(tmp_path / "m.dbn")
    again = load(tmp_path / "m.dbn")
    assert again.score(X) == pytest.approx(model.score(X), rel=1e-6)
    assert_allclose(again.reconstruct(X), model.reconstruct(X), atol=1e-6)
    with pytest.raises(NotImplementedError, match="inverse_transform is not offered with state_offset=True"):
        model.inverse_transform(model.transform(X))
    with pytest.raises(ValueError, match="state_offset=True beside n_clip_latent=1"):
        VAEHMM(2, 1, n_clip_latent=1, state_offset=True, **TINY).fit(X)


@pytest.mark.parametrize("method", ["elbo", "iwae", "smc"])
def test_no_samples_are_refused_and_not_taken_for_the_usual_number(method: str) -> None:
    X = np.random.default_rng(0).normal(size=(20, 2))
    model = VAEHMM(2, 2, n_updates=1, n_pretrain=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="n_samples=0; it must be a whole number from 1"):
        model.evaluate(X, method=method, n_samples=0)


@pytest.mark.parametrize("make", [DeepMarkovModel, lambda **options: SwitchingDMM(2, **options)])
def test_a_smoother_is_for_one_linear_transition(make: Any) -> None:
    with pytest.raises(ValueError, match="inference='smoother' is"):
        make(inference="smoother", **TINY).fit(np.zeros((4, 5, 2)))
