"""Deep models that inputs drive, through the verbs."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dbn_vae import VAE, VAEHMM, DeepMarkovModel, Sequences, SwitchingDMM, load

TINY: dict[str, Any] = {
    "hidden": (6,), "n_updates": 3, "n_pretrain": 3, "warm_up": 1, "batch_size": 4, "n_samples": 3, "random_state": 0,
    "device": "cpu",
}  # fmt: skip
LENGTHS = [12, 9, 7]
X = np.random.default_rng(0).normal(size=(28, 2))
U = np.random.default_rng(1).normal(size=(28, 2))
MAKE = {
    "vae-hmm": lambda: VAEHMM(2, 2, **TINY),
    "dmm": lambda: DeepMarkovModel(2, inference="product-filter", n_hidden=4, **TINY),
    "switching-dmm": lambda: SwitchingDMM(2, 2, inference="product-filter", n_hidden=4, **TINY),
}
every = pytest.mark.parametrize("name", MAKE)


def answers(model: Any, X: Any, lengths: Any = None, inputs: Any = None) -> dict[str, np.ndarray]:
    out = {
        "score": np.array([model.score(X, lengths=lengths, inputs=inputs)]),
        "latents": model.transform(X, lengths, inputs=inputs),
        "reconstruction": model.reconstruct(X, lengths, inputs=inputs),
        "filter": model.filter(X, lengths, inputs=inputs),
    }
    if not isinstance(model, DeepMarkovModel):
        out["gamma"] = model.predict_proba(X, lengths, inputs=inputs)
        out["path"] = model.predict(X, lengths, inputs=inputs)
        assert_allclose(model.posterior(X, lengths, inputs=inputs).smoothed, out["gamma"], atol=1e-6)
    return out


@every
def test_every_verb_takes_inputs_in_every_form_and_files_keep_them(name: str, tmp_path: Any) -> None:
    model = MAKE[name]().fit(X, lengths=LENGTHS, inputs=U)
    assert model.n_inputs == 2
    here = answers(model, X, LENGTHS, U)
    assert any(
        (a != b).any() for a, b in zip(here.values(), answers(model, X, LENGTHS, U + 1).values(), strict=True)
    )
    parts = np.split(X, [12, 21]), np.split(U, [12, 21])
    again = MAKE[name]().fit(Sequences.from_any(X, LENGTHS, inputs=U))
    model.save(tmp_path / "m.dbn")
    for other, form in (
        (model, answers(model, parts[0], None, parts[1])),
        (again, answers(again, X, LENGTHS, U)),
        (load(tmp_path / "m.dbn"), answers(load(tmp_path / "m.dbn"), X, LENGTHS, U)),
    ):
        for key, value in here.items():
            assert_allclose(form[key], value, atol=1e-6, err_msg=f"{key} of {other}")
    frames = model.sample(9, random_state=0, inputs=U[:9])[0]
    assert frames.shape == (9, 2)
    assert_array_equal(frames, model.sample(9, random_state=0, inputs=U[:9])[0])
    refit = model.fit(X, lengths=LENGTHS)
    assert refit.n_inputs == 0
    refit.score(X, lengths=LENGTHS)


@every
def test_missing_and_misplaced_inputs_are_refused(name: str) -> None:
    driven, plain = MAKE[name]().fit(X, lengths=LENGTHS, inputs=U), MAKE[name]().fit(X, lengths=LENGTHS)
    for ask in (driven.score, driven.transform, driven.reconstruct, driven.filter):
        with pytest.raises(ValueError, match=r"inputs are not given.*reads 2 a frame.*\(28, 2\)"):
            ask(X)
    with pytest.raises(ValueError, match="inputs have 1 columns"):
        driven.transform(X, LENGTHS, inputs=U[:, :1])
    with pytest.raises(ValueError, match="inputs are given, but this"):
        plain.score(X, lengths=LENGTHS, inputs=U)
    with pytest.raises(ValueError, match=re.escape("inputs has shape (28,); it must be (N, U)")):
        MAKE[name]().fit(X, lengths=LENGTHS, inputs=U[:, 0])
    with pytest.raises(ValueError, match=r"inputs are not given.*give inputs of shape \(9, 2\)"):
        driven.sample(9)


@every
def test_inputs_of_frames_to_come_are_asked_for_and_checked(name: str) -> None:
    driven, plain = MAKE[name]().fit(X, lengths=LENGTHS, inputs=U), MAKE[name]().fit(X, lengths=LENGTHS)
    same, options = U[:4], {"lengths": LENGTHS, "horizon": 4, "n_samples": 2, "random_state": 0}
    one = driven.forecast(X, inputs=U, future_inputs=same, **options)
    each = driven.forecast(X, inputs=U, future_inputs=np.stack([same] * 3), **options)
    assert_array_equal(one.samples, each.samples)
    assert one.samples.shape == (2, 3, 4, 2)
    for wrong, message in (
        (None, re.escape("future_inputs are not given, but this")),
        (
            U[:3],
            re.escape("of shape (4, 2) for every sequence or (3, 4, 2)"),
        ),
        (np.full((4, 2), np.nan), "future_inputs hold NaN or infinite values"),
    ):
        with pytest.raises(ValueError, match=message):
            driven.forecast(X, inputs=U, future_inputs=wrong, **options)
    with pytest.raises(ValueError, match=r"future_inputs are given, but this .* reads none"):
        plain.forecast(X, future_inputs=same, **options)
    with pytest.raises(ValueError, match="inputs are not given"):
        driven.impute(X, LENGTHS)


def test_a_model_of_single_frames_reads_no_inputs() -> None:
    with pytest.raises(ValueError, match="this VAE reads none"):
        VAE(2, **TINY).fit(X, inputs=U)


def test_a_vae_hmm_learns_what_inputs_do_to_its_states() -> None:
    """High inputs lead to one state, low ones to the other: of frames never seen the inputs alone decide."""
    rng = np.random.default_rng(2)
    u = np.repeat(rng.normal(size=(60, 1)), 5, axis=0)
    states = (u[:, 0] > 0).astype(int)
    frames = rng.normal(size=(300, 2)) * 0.3 + 4 * states[:, None]
    model = VAEHMM(2, 1, **TINY | {"n_updates": 150, "n_pretrain": 60, "learning_rate": 3e-2, "hidden": (8,)})
    model.fit(frames, lengths=[50] * 6, inputs=u)
    unseen = model.predict(np.full((300, 2), np.nan), inputs=u)
    agreement = (unseen == states).mean()
    assert max(agreement, 1 - agreement) > 0.85, agreement
    slope = model.module_.transition.transition_slope.detach().numpy()[..., 0]
    assert (np.sign(slope[:, 1] - slope[:, 0]) == (1 if agreement > 0.5 else -1)).all()
    assert_allclose(model.transmat_.sum(1), 1, rtol=1e-5)
    state = model.filter_state()
    live = [state.update([np.nan, np.nan], inputs=v) for v in u[:50]]
    assert_allclose(live, model.filter(np.full((50, 2), np.nan), inputs=u[:50]), atol=1e-5)
