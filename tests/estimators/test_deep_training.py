"""Training of the deep estimators: what is taken over, rescued, chosen, cut short, told, and taken up again."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

import dbn_vae
from dbn_vae.aevb import AEVB
from dbn_vae.distributions import log_normal
from dbn_vae.emissions import DiagonalGaussian
from dbn_vae.estimators import VAE, VAEHMM, DeepMarkovModel, GaussianHMM, SwitchingDMM, logbook, recipe
from dbn_vae.estimators.diagnostics import Diagnostics, rising, troubles
from dbn_vae.estimators.recipe import Ascent, Curve, Schedule
from dbn_vae.evaluation import matched_accuracy
from dbn_vae.likelihoods import Gaussian
from dbn_vae.models import HMM
from dbn_vae.models import VAE as StaticVAE
from dbn_vae.sequences import Sequences
from dbn_vae.training import adopt
from dbn_vae.training import reseed as reseeding
from dbn_vae.training.reseed import Frames, admit, bound, explain, reseed, seed
from dbn_vae.transitions import Stationary

LENGTHS = [12, 5, 9, 4, 3, 5, 12, 6]
N = sum(LENGTHS)
TINY: dict[str, Any] = {
    "hidden": (4,), "n_updates": 12, "n_pretrain": 6, "warm_up": 3, "batch_size": 3, "n_samples": 5,
    "validation": 0.3, "random_state": 0, "max_length": 5,
}  # fmt: skip
MAKE: dict[str, Callable[..., Any]] = {
    "vae": lambda **o: VAE(2, **TINY | o),
    "vae-hmm": lambda **o: VAEHMM(2, 2, **TINY | o),
    "dmm": lambda **o: DeepMarkovModel(2, n_hidden=3, **TINY | o),
    "switching-dmm": lambda **o: SwitchingDMM(2, 2, n_hidden=3, **TINY | o),
}
every = pytest.mark.parametrize("name", MAKE)


def frames() -> np.ndarray:
    rng = np.random.default_rng(3)
    group = np.repeat(rng.integers(0, 2, N // 4 + 1), 4)[:N, None]
    return 20 + 3 * (rng.normal(size=(N, 3)) + 4 * group * [1, -1, 0])


X = frames()


def weights(model: Any) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.module_.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# -- a core taken over


@pytest.fixture(scope="module")
def vae() -> VAE:
    return MAKE["vae"]().fit(X, LENGTHS)


@pytest.mark.parametrize("name", ["vae-hmm", "dmm", "switching-dmm"])
def test_a_frozen_core_stays_as_it_was_and_so_does_its_scaling(name: str, vae: VAE) -> None:
    """To the bit, while the rest of the model learns; the data of the new fit have other moments."""
    model = MAKE[name](core=vae, freeze_core=True).fit(X[: sum(LENGTHS[:5])] + 1, LENGTHS[:5])
    assert_equal(model.module_.core.state_dict(), vae.module_.core.state_dict())
    assert torch.equal(model.center_, vae.center_)
    assert torch.equal(model.scale_, vae.scale_)
    start = MAKE[name](core=vae, n_updates=0).fit(X[: sum(LENGTHS[:5])] + 1, LENGTHS[:5])
    moved = [k for k, v in weights(model).items() if not torch.equal(v, weights(start)[k])]
    assert moved
    assert not any(k.startswith("core") for k in moved)


@every
def test_a_core_that_is_not_frozen_is_only_the_start(name: str, vae: VAE) -> None:
    before = {k: v.clone() for k, v in vae.module_.core.state_dict().items()}
    model = MAKE[name](core=vae).fit(X, LENGTHS)
    assert_equal(vae.module_.core.state_dict(), before)
    learnt = model.module_.core.state_dict()
    assert any(not torch.equal(v, learnt[k]) for k, v in before.items())


def test_a_core_goes_from_any_model_to_any_other_and_back(vae: VAE) -> None:
    """What the core says of single frames is the same in all: the bound of the static model, noise and all."""
    there = MAKE["switching-dmm"](core=vae, freeze_core=True).fit(X, LENGTHS)
    back = MAKE["vae"](core=there, n_updates=0).fit(X[:20], [20])
    assert back.score(X) == vae.score(X)
    from_module = MAKE["vae-hmm"](core=there.module_.core, n_updates=0).fit(X, LENGTHS)
    assert_equal(from_module.module_.core.state_dict(), vae.module_.core.state_dict())


def test_freezing_without_a_core_given_freezes_what_pre_training_taught() -> None:
    models = [MAKE["dmm"](freeze_core=True, n_updates=n).fit(X, LENGTHS) for n in (0, 12)]
    cores = [m.module_.core.state_dict() for m in models]
    assert_equal(*cores)
    assert not torch.equal(models[0].module_.initial_mean, models[1].module_.initial_mean)


REFUSED: list[tuple[Callable[[VAE], dict[str, Any]], str]] = [
    (lambda v: {"core": v, "n_latent": 3}, "core has n_latent 2, and this model 3: give n_latent=2"),
    (lambda v: {"core": v, "hidden": (5,)}, r"core has other layers.*\(4,\) there and \(5,\) here"),
    (lambda v: {"core": v, "hidden": (4, 4)}, "core has other layers.*decoder.2.bias"),
    (lambda v: {"core": v, "likelihood": "student-t"}, "likelihood gaussian, and this model student-t: give"),
    (lambda v: {"core": AEVB(4, 2, Gaussian(), (4,))}, "core has columns 4, and this model 3"),
    (lambda v: {"core": clone(v)}, r"core=VAE\(.*is not fitted"),
    (lambda v: {"core": GaussianHMM(2)}, r"core=GaussianHMM.*fitted VAE.*or an AEVB"),
    (lambda v: {"n_probes": 0}, "n_probes=0"),
    (lambda v: {"patience": 0}, "patience=0"),
    (lambda v: {"max_norm": -1.0}, r"max_norm=-1.0; it must be a number above 0"),
    (lambda v: {"reseed": 1.5}, "reseed=1.5"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    options: Callable[[VAE], dict[str, Any]], words: str, vae: VAE
) -> None:
    with pytest.raises((ValueError, TypeError), match=re.compile(words, re.DOTALL)):
        MAKE["vae-hmm"]().set_params(**options(vae)).fit(X, LENGTHS)


def test_a_vae_with_a_frozen_core_has_nothing_to_learn(vae: VAE) -> None:
    with pytest.raises(ValueError, match="freeze_core=True leaves a VAE nothing to learn: set n_updates=0"):
        MAKE["vae"](core=vae, freeze_core=True).fit(X, LENGTHS)


@pytest.mark.parametrize("name", ["vae", "dmm"])
def test_labels_are_refused_where_there_are_no_states(name: str) -> None:
    with pytest.raises(ValueError, match=r"labels are given, but a .* has no states"):
        MAKE[name]().fit(X, LENGTHS, labels=np.zeros(N))


@pytest.mark.parametrize("kind", ["estimator", "module"])
def test_clones_and_files_keep_the_core(kind: str, vae: VAE, tmp_path: Path) -> None:
    """A clone, and a clone of what was loaded, fit to the numbers that the original fits to."""
    core = vae if kind == "estimator" else vae.module_.core
    model = MAKE["vae-hmm"](core=core)
    assert clone(model).core is core
    assert clone(model).get_params(deep=False) == model.get_params(deep=False)
    model.fit(X, LENGTHS).save(tmp_path / "m.dbn")
    loaded: Any = dbn_vae.load(tmp_path / "m.dbn")
    assert_equal(weights(loaded), weights(model))
    assert loaded.diagnostics_ == model.diagnostics_
    again = clone(loaded).fit(X, LENGTHS)
    assert again.history_ == model.history_
    assert_equal(weights(again), weights(model))


# -- dead states


class StillbornVAEHMM(VAEHMM):
    """Starts with one state that has every frame, and one that is far from all and never entered."""

    def begin(self, model: Any, data: Sequences, generator: torch.Generator) -> None:
        with torch.no_grad():
            model.mean[0], model.mean[1] = 0.0, 30.0
            model.transition.transition_logits.copy_(torch.tensor([[0.0, -12.0], [-2.0, 0.0]]))
            model.transition.initial_logits.copy_(torch.tensor([0.0, -12.0]))


def two_states() -> tuple[np.ndarray, np.ndarray]:
    """Two groups of frames, two thirds of them in one."""
    rng = np.random.default_rng(0)
    states = np.repeat(rng.permutation([0] * 16 + [1] * 8), 10)
    return rng.normal(size=(240, 3)) + 5 * states[:, None] * [1, -1, 1], states


LEARNING = TINY | {
    "n_updates": 100, "n_pretrain": 60, "learning_rate": 3e-2, "warm_up": 20, "max_length": 40,
}  # fmt: skip


def test_a_dead_state_is_recovered_by_reseeding_and_not_without() -> None:
    X, states = two_states()
    dead, revived = (StillbornVAEHMM(2, 1, reseed=r, **LEARNING).fit(X) for r in (0.0, 0.1))
    assert dead.diagnostics_.reseeded == 0
    assert dead.diagnostics_.effective_states < 1.01
    assert "state 1 of 2 explain" in " ".join(dead.diagnostics_.troubles)
    assert matched_accuracy(states, dead.predict(X)) == pytest.approx(2 / 3)
    assert revived.diagnostics_.reseeded > 0
    assert matched_accuracy(states, revived.predict(X)) > 0.9
    assert dead.history_[-1].validation < revived.history_[-1].validation


@pytest.mark.parametrize("name", ["vae-hmm", "switching-dmm"])
def test_a_state_begun_again_changes_nothing_of_the_others(name: str) -> None:
    """But what they give it of their moves; each row of A still sums to 1."""
    model = MAKE[name](n_updates=0).set_params(n_components=3).fit(X, LENGTHS)
    module, before = model.module_, weights(model)
    data = model.prepared(model.sequences(X, LENGTHS))
    with torch.no_grad():
        A, pi = module.transition.log_transition().exp(), module.transition.log_initial().exp()
        assert seed(module, 1, [0, 2], explain(module, data), torch.Generator().manual_seed(0))
        admit(module, 1, [0, 2], 0.04)
    own = ("mean", "log_scale") if name == "vae-hmm" else ("moves.1", "initial")
    for key, value in weights(model).items():
        if not key.startswith((*own, "transition")):
            assert torch.equal(value, before[key]), key
    for key in ("mean", "log_scale") if name == "vae-hmm" else ("initial_mean", "initial_log_scale"):
        assert torch.equal(weights(model)[key][[0, 2]], before[key][[0, 2]])
    found = module.transition.log_transition().exp()
    torch.testing.assert_close(found.sum(1), torch.ones(3))
    torch.testing.assert_close(found[0], 0.96 * A[0] + torch.tensor([0, 0.04, 0]))
    torch.testing.assert_close(found[1, 1], (A[0, 0] + A[2, 2]) / 2)
    torch.testing.assert_close(module.transition.log_initial().exp(), 0.96 * pi + torch.tensor([0, 0.04, 0]))


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["vae-hmm", "switching-dmm"])
@pytest.mark.parametrize("ruined", [False, True])
def test_reseeding_never_lowers_the_bound(name: str, ruined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not help, as where what it did is ruined, every number is as before, to the bit."""
    model = MAKE[name](n_updates=0).set_params(n_components=3).fit(X, LENGTHS)
    data = model.prepared(model.sequences(X, LENGTHS))
    module, g = model.module_, torch.Generator().manual_seed(0)
    start, helped = weights(model), []
    if ruined:
        monkeypatch.setattr(reseeding, "admit", lambda m, *_: m.core.decoder[-1].bias.add_(9.0))
    for _ in range(5):
        module.load_state_dict(start)
        with torch.no_grad():
            for p in [p for n, p in module.named_parameters() if not n.startswith("core")]:
                p.add_(0.3 * torch.randn(p.shape, generator=g))
            module.transition.transition_logits[:, 1], module.transition.initial_logits[1] = -1e3, -1e3
            assert explain(module, data).shares[1] < 1e-6
            before, value = weights(model), bound(module, data)
            helped.append(reseed(module, data, 0.1, g))
            if helped[-1]:
                assert bound(module, data) > value
            else:
                assert_equal(weights(model), before)
    assert sum(helped) == 0 if ruined else sum(helped) > 0


def test_a_move_is_begun_again_from_the_moves_explained_worst() -> None:
    """Latents that drift, and now and then jump back: the dead state's move becomes the jump's least squares."""
    g = torch.Generator().manual_seed(0)
    before = torch.randn(400, 2, generator=g)
    jump = torch.rand(400, generator=g) < 0.1
    z = torch.where(jump[:, None], -2 * before + 1, before) + 0.05 * torch.randn(400, 2, generator=g)
    module = MAKE["switching-dmm"](n_updates=0, init="random").fit(X, LENGTHS).module_
    with torch.no_grad():
        explained = torch.stack([log_normal(z, m(before)) for m in module.moves], -1)
    seen = Frames(
        gamma=torch.tensor([1.0, 0.0]).expand(400, 2),
        explained=explained[:, 0],
        allowed=torch.ones(400, 2, dtype=torch.bool),
        z=z,
        before=before,
        first=torch.zeros(400, dtype=torch.bool),
        weights=torch.ones(400),
    )
    with torch.no_grad():
        assert seed(module, 1, [0], seen, g)
    chosen = explained[:, 0].argsort()[:40]
    assert jump[chosen].float().mean() > 0.9
    design = torch.cat([before[chosen], torch.ones(40, 1)], 1)
    exact = torch.linalg.lstsq(design, z[chosen]).solution
    torch.testing.assert_close(module.moves[1].weight.detach(), exact[:2].T, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(module.moves[1].bias.detach(), exact[2], atol=1e-2, rtol=1e-2)


def test_frames_whose_labels_forbid_a_state_are_not_given_to_it() -> None:
    model = MAKE["vae-hmm"](n_updates=0).fit(X, LENGTHS)
    data = model.prepared(model.sequences(X, LENGTHS, labels=np.zeros(N)))
    before = weights(model)
    assert reseed(model.module_, data, 0.5, torch.Generator()) == 0
    assert_equal(weights(model), before)


def test_a_state_that_the_classical_start_lost_begins_as_the_prior_has_it() -> None:
    """Three states for two groups: EM may leave one that nothing enters, without a mean and a variance."""
    model = MAKE["vae-hmm"](n_updates=0).set_params(n_components=3).fit(X, LENGTHS).module_
    fresh = MAKE["vae-hmm"]().set_params(n_components=3).build(model.core)
    emission = DiagonalGaussian(torch.tensor([[1.0, 2], [np.nan, np.nan], [3, 4]]), torch.ones(3, 2))
    with torch.no_grad():
        emission.log_scale[1] = torch.inf
    zero = torch.tensor([[0.7, 0, 0.3], [0, 1, 0], [0.2, 0, 0.8]])
    adopt(fresh, HMM(Stationary(torch.tensor([0.5, 0, 0.5]), zero), emission))
    assert fresh.mean.tolist() == [[1, 2], [0, 0], [3, 4]]
    torch.testing.assert_close(fresh.log_scale, torch.zeros(3, 2))
    A = fresh.transition.log_transition().exp()
    torch.testing.assert_close(A[1], torch.tensor([0.05, 0.9, 0.05]))
    torch.testing.assert_close(A[0], torch.tensor([0.7, 0.05, 0.3]) / 1.05)


# -- probes


class Lottery(VAEHMM):
    """Its starts are worthless but for the second."""

    def begin(self, model: Any, data: Sequences, generator: torch.Generator) -> None:
        super().begin(model, data, generator)
        self.drawn = [*getattr(self, "drawn", []), model]
        if len(self.drawn) != 2:
            with torch.no_grad():
                model.core.decoder[-1].bias.fill_(5.0)


def test_the_best_of_the_probes_goes_on_as_if_it_had_been_alone() -> None:
    model = Lottery(2, 2, n_probes=3, **TINY | {"n_updates": 40}).fit(X, LENGTHS)
    bounds = model.diagnostics_.probes
    assert len(bounds) == 3
    assert int(np.argmax(bounds)) == 1
    assert model.module_ is model.drawn[1]
    looks = model.history_
    assert looks[0].validation == bounds[1]
    assert [c.update for c in looks] == [10, 20, 30, 40]
    assert model.drawn[0].core is not model.drawn[1].core


# -- the end of a run


def ascent(bounds: list[float], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Ascent:
    """A run whose looks are told these bounds."""
    model = StaticVAE(AEVB(3, 2, Gaussian(), (4,)))
    data = Sequences.from_any(X[:, None], dtype=torch.float32)
    left = iter(bounds)
    told = lambda *_: type("Score", (), {"per_frame": next(left)})  # noqa: E731
    monkeypatch.setattr(recipe, "iwae", told)
    plan = Schedule(200, 8, 1e-2, options.pop("warm_up", 0), 10.0, **options)
    return Ascent(model, data, data, plan, torch.Generator().manual_seed(0))


def test_training_ends_after_so_many_looks_without_a_better_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best look's parameters are kept: those it had when it was looked at."""
    run = ascent([1, 3, 2, 4, 3, 4, 2, 9, 9], monkeypatch, patience=3)
    seen: dict[int, dict[str, Tensor]] = {}
    run.run(
        after=lambda r, looked: seen.update(
            {r.place.update: {k: v.clone() for k, v in r.model.state_dict().items()}}
        )
    )
    assert [c.validation for c in run.curve] == [1, 3, 2, 4, 3, 4, 2]
    assert run.place.update == 70
    run.keep_best()
    assert_equal(run.model.state_dict(), seen[40])
    run.run()
    assert run.place.update == 70, "a run that has ended stays ended"


@pytest.mark.parametrize(
    ("n_updates", "looks", "probe"),
    [(1000, list(range(50, 1001, 50)), 100), (150, list(range(10, 151, 10)), 10), (7, [7], 10)],
)
def test_a_look_is_a_twentieth_of_a_run_but_not_under_ten_updates(
    n_updates: int, looks: list[int], probe: int
) -> None:
    plan = Schedule(n_updates, 8, 1e-2, 0, 10.0)
    assert [u for u in range(1, n_updates + 1) if plan.looks_after(u)] == looks
    assert plan.probe_until == probe


@pytest.mark.parametrize(("patience", "looks"), [(None, 20), (19, 20), (16, 18)])
def test_patience_counts_from_beta_1_on(
    patience: int | None, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look at β = 1 is the second: what came before, however high, is no bound to keep."""
    run = ascent([99, 1, *[0] * 18], monkeypatch, warm_up=15, patience=patience)
    run.run()
    assert len(run.curve) == looks
    assert run.keeper.update == 20


def test_the_norm_of_gradients_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [MAKE["vae"](max_norm=m).fit(X, LENGTHS).diagnostics_ for m in (1e-3, np.inf)]
    assert [t.clipped for t in told] == [1.0, 0.0]
    assert all(np.isfinite(t.gradient_norms).all() for t in told)


# -- what is told


def test_troubles_in_words() -> None:
    fine = Diagnostics(100, 100, False, [], 0, [1.0], 0.0, [1.0, 0.5], [2.0, 1.0], 2, [0.5, 0.5], 2.0, [])
    flat = [Curve(5 * i, 0.0, 1.0) for i in range(20)]
    still = [Curve(5 * i, 0.0, 0.1 * i) for i in range(20)]
    assert troubles(fine, flat, 10.0) == []
    cases = {
        "all 2 latents are dead.*warm_up": fine._replace(latent_variance=[1e-3, 0.0], kl_per_latent=[0.0, 1e-3]),
        "only 1 of 3 latents.*n_latent=1": fine._replace(latent_variance=[1.0, 0, 0], kl_per_latent=[1.0, 0, 0]),
        "state 1 of 2 explain under 5.0% of the frames.*n_components=1": fine._replace(state_shares=[0.96, 0.04]),
        "80% of the gradients were clipped at max_norm=10.*learning_rate": fine._replace(clipped=0.8),
    }  # fmt: skip
    for words, found in cases.items():
        (told,) = troubles(found, flat, 10.0)
        assert re.match(words, told)
    (told,) = troubles(fine, still, 10.0)
    assert "still rising" in told


@pytest.mark.parametrize(
    ("bounds", "answer"),
    [
        ([1 - 0.5**i for i in range(20)], False),
        ([0.01 * i**2 for i in range(20)], True),
        ([-5.0, *[0.0] * 14, 0.0, 0.1, 0.2, 0.3, 0.4], False),  # a tenth of the gain is still to come
        ([0.0, *[1.0] * 13, 1.1, 1.2, 1.3, 1.4, 1.5, 1.2], False),  # it fell again
        ([0.0, 1.0], False),
    ],
)
def test_whether_a_bound_was_still_rising(bounds: list[float], answer: bool) -> None:
    assert rising([Curve(i, 0.0, b) for i, b in enumerate(bounds)]) is answer


def test_a_collapse_is_told_as_a_warning() -> None:
    """Noise has no structure that latents could carry."""
    noise = np.random.default_rng(0).normal(size=(300, 3))
    model = VAE(2, **TINY | {"n_updates": 150, "warm_up": 0, "learning_rate": 0.1, "batch_size": 100})
    with pytest.warns(ConvergenceWarning, match="VAE: all 2 latents are dead"):
        model.fit(noise)
    assert model.diagnostics_.active_units == 0
    assert "all 2 latents" in str(model.diagnostics_)


def test_what_was_learnt_on_data_with_structure_is_no_trouble() -> None:
    X, _ = two_states()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model = VAEHMM(2, 1, **LEARNING).fit(X)
    told = model.diagnostics_
    assert told.troubles == []
    assert told.active_units == 1
    assert sorted(told.state_shares) == pytest.approx([1 / 3, 2 / 3], abs=0.05)


# -- checkpoints


def interrupt_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Ctrl-C after so many updates of all runs together."""
    original, left = recipe.ascend, iter(range(update))

    def ascend(*arguments: Any, **options: Any) -> Any:
        for step in original(*arguments, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(recipe, "ascend", ascend)


def outcome(model: Any) -> tuple[list[Curve], Any, dict[str, Tensor]]:
    return model.history_, model.diagnostics_, weights(model)


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("name", "options", "moments"),
    [
        ("vae", {}, (4,)),
        ("vae-hmm", {}, (2, 9, 15)),
        ("dmm", {"weight_decay": 0.1}, (11,)),
        ("switching-dmm", {"n_probes": 2, "n_init": 1}, (7, 15)),
        ("vae-hmm", {"patience": 1, "n_updates": 60}, (34,)),
    ],
)
def test_a_fit_taken_up_again_is_the_fit_that_was_never_stopped(
    name: str,
    options: dict[str, Any],
    moments: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit, wherever it was stopped, and however often: in pre-training, between two looks, within an epoch."""
    monkeypatch.setattr(logbook, "SECONDS", -1.0)  # write after every update
    whole = MAKE[name](**options).fit(X, LENGTHS)
    for moment in moments:
        path = tmp_path / f"stopped at {moment}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, moment)
            MAKE[name](**options).fit(X, LENGTHS, checkpoint=path)
        resumed = MAKE[name](**options).fit(X, LENGTHS, checkpoint=path)
        assert outcome(resumed)[:2] == outcome(whole)[:2], moment
        assert_equal(weights(resumed), weights(whole))


def test_a_fit_may_be_stopped_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "SECONDS", -1.0)
    stops = 0
    while True:
        try:
            with monkeypatch.context() as patch:
                interrupt_at(patch, 5)
                model = MAKE["vae-hmm"]().fit(X, LENGTHS, checkpoint=tmp_path / "fit")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 3
    assert_equal(weights(model), weights(MAKE["vae-hmm"]().fit(X, LENGTHS)))


def test_a_run_without_a_seed_is_taken_up_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file knows where its randomness began: the split and the starts are those of the first run."""
    monkeypatch.setattr(logbook, "SECONDS", -1.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 11)
        MAKE["vae-hmm"](random_state=None).fit(X, LENGTHS, checkpoint=tmp_path / "a")
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    models = [MAKE["vae-hmm"](random_state=None).fit(X, LENGTHS, checkpoint=tmp_path / f) for f in "ab"]
    assert models[0].history_ == models[1].history_
    assert_equal(*map(weights, models))


@every
def test_a_finished_fit_comes_back_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MAKE[name]().fit(X, LENGTHS, checkpoint=tmp_path / "fit")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 0)
        again = MAKE[name](verbose=True).fit(X, LENGTHS, checkpoint=tmp_path / "fit")
    assert outcome(again)[:2] == outcome(model)[:2]
    assert_equal(weights(again), weights(model))
    assert_array_equal(again.transform(X, LENGTHS), model.transform(X, LENGTHS))


def test_a_checkpoint_of_another_fit_is_refused_by_what_differs(tmp_path: Path, vae: VAE) -> None:
    path = tmp_path / "fit"
    MAKE["vae-hmm"](core=vae).fit(X, LENGTHS, checkpoint=path)
    written = path.read_bytes()
    other = MAKE["vae"]().fit(X + 1, LENGTHS)
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("with n_updates=12, and this one has n_updates=13: fit with the same arguments",
         lambda: MAKE["vae-hmm"](core=vae, n_updates=13).fit(X, LENGTHS, checkpoint=path)),
        ("core=.*this one has core=", lambda: MAKE["vae-hmm"](core=other).fit(X, LENGTHS, checkpoint=path)),
        ("class='VAEHMM'.*class='VAE'", lambda: MAKE["vae"](core=vae).fit(X, LENGTHS, checkpoint=path)),
        (r"other data \(x differ\)", lambda: MAKE["vae-hmm"](core=vae).fit(X + 1, LENGTHS, checkpoint=path)),
        (r"other data \(lengths differ\)", lambda: MAKE["vae-hmm"](core=vae).fit(X, LENGTHS[::-1], checkpoint=path)),
        (r"other data \(labels differ\)",
         lambda: MAKE["vae-hmm"](core=vae).fit(X, LENGTHS, labels=np.zeros(N), checkpoint=path)),
        (r"other data \(weights differ\)",
         lambda: MAKE["vae-hmm"](core=vae).fit(X, LENGTHS, sample_weight=np.arange(1, 9), checkpoint=path)),
    ]  # fmt: skip
    for words, refit in cases:
        with pytest.raises(ValueError, match=words):
            refit()
        assert path.read_bytes() == written
    vae.save(path)
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        MAKE["vae"]().fit(X, LENGTHS, checkpoint=path)


def test_the_same_seed_gives_the_same_fit_with_every_help_at_work() -> None:
    runs = []
    for _ in range(2):
        torch.rand(1)  # nobody asks the global generator
        runs.append(StillbornVAEHMM(2, 2, n_probes=2, **TINY | {"n_updates": 40}).fit(X, LENGTHS))
    assert runs[0].diagnostics_.reseeded > 0
    assert outcome(runs[0])[:2] == outcome(runs[1])[:2]
    assert_equal(weights(runs[0]), weights(runs[1]))
