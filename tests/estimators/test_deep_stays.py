"""Deep models whose stays have durations: the plain chain that geometric stays are, and the sum over all paths."""

import copy
from itertools import groupby, pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from dbn_vae import VAEHMM, SwitchingDMM
from dbn_vae.transitions import Stationary

TINY: dict[str, Any] = {"hidden": (4,), "n_updates": 1, "n_pretrain": 1, "random_state": 0, "device": "cpu"}
LENGTHS = [9, 1, 6]
X = np.random.default_rng(0).normal(size=(16, 2)).cumsum(0)
X[3], X[11, 0] = np.nan, np.nan
MAKE: dict[str, Any] = {
    "vae-hmm": lambda **more: VAEHMM(3, 1, **TINY, **more),
    "switching-dmm": lambda **more: SwitchingDMM(
        3, 1, inference="product-filter", n_hidden=4, **TINY, **more
    ),
}
every = pytest.mark.parametrize("name", MAKE)


def fitted(name: str, rate: str = "log_rate", **more: Any) -> Any:
    """A model in double precision whose states differ: after one update they hardly do."""
    model = MAKE[name](**more).fit(np.where(np.isnan(X), 0.0, X), lengths=LENGTHS)
    model.dtype = torch.float64
    model.module_.double()
    module, chain = model.module_, model.module_.transition
    apart = torch.tensor([[-1.5], [0.0], [1.5]]).double()
    with torch.no_grad():
        for key, value in module.named_parameters():
            if key in ("mean", "initial_mean"):
                value.copy_(apart)
            if "log_scale" in key:
                value.fill_(0.0)
        for k, move in enumerate(getattr(module, "moves", ())):
            move.bias.fill_(float(apart[k]))
            move.weight.fill_(0.5)
            move.raw_variance.fill_(1.0)
        for layer in [*module.core.encoder, *module.core.decoder]:  # what is said of z, or by it, is heard
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(1.5)
        chain.moves.initial_logits.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
        chain.moves.transition_logits.copy_(torch.tensor([[0, 0.8, 0.2], [0.5, 0, 0.5], [0.9, 0.1, 0]]).log())
        chain.durations.get_parameter(rate).copy_(torch.tensor([0.3, 1.5, 0.8]).log())
    return model


def memoryless(model: Any) -> Any:
    """The same model with the chain that geometric stays are."""
    twin = copy.deepcopy(model)
    semi = model.module_.transition
    with torch.no_grad():
        mean = semi.durations.log_mean.exp()
        stay = mean / (1 + mean)
        A = stay.diag() + (1 - stay)[:, None] * semi.log_transition().exp()
        twin.module_.transition = Stationary(semi.log_initial().exp(), A)
    twin.durations = None
    return twin


@every
def test_geometric_stays_leave_the_posterior_of_the_plain_chain(name: str) -> None:
    stays = fitted(
        name, "log_mean", durations="geometric", max_duration=60
    )  # cut off where 1e-13 of them are left
    plain = memoryless(stays)
    p, q = stays.posterior(X, LENGTHS), plain.posterior(X, LENGTHS)
    for part in ("filtered", "predicted", "smoothed", "xi", "entropy"):
        assert_allclose(getattr(p, part), getattr(q, part), rtol=1e-9, atol=1e-9, err_msg=part)
    assert_allclose(p.fixed_lag(2), q.fixed_lag(2), atol=1e-9)
    assert_allclose(p.ahead(3), q.ahead(3), atol=1e-9)
    assert_allclose(p.xi_steps(), q.xi_steps(), atol=1e-9)
    assert_allclose(p.belief.reshape(3, 3, 60).sum(2), q.belief, atol=1e-9)
    for ask in (
        lambda r: r.viterbi(),
        lambda r: r.mpm(),
        lambda r: r.hybrid_risk(0.4),
        lambda r: r.k_best(2),
    ):
        assert_array_equal(ask(p).states, ask(q).states)
        assert_allclose(ask(p).log_prob, ask(q).log_prob, atol=1e-8)
    seen = np.stack([(p.sample(2000, random_state=1) == k).mean(0) for k in range(3)], 1)
    assert_allclose(seen, q.smoothed, atol=4.5 * 0.5 / np.sqrt(2000))
    if name == "vae-hmm":
        streams = stays.filter_state(), plain.filter_state()
        for x in X[:9]:
            assert_allclose(*(stream.update(x) for stream in streams), atol=1e-9)
        assert_allclose(*(stream.predict(4) for stream in streams), atol=1e-9)


@every
def test_uneven_stays_leave_the_sum_over_all_paths(name: str) -> None:
    """Three states in six frames, 729 paths: which stays each is made of, and how likely these are."""
    model = fitted(name, durations="poisson", max_duration=4, min_duration=1)
    module, T = model.module_, 6
    x = X[:T]
    with torch.no_grad():
        potential = module.chain(model.prepared(model.sequences(x)).only()).chain.log_emission[0].numpy()
        start, A = (
            t.exp().numpy() for t in (module.transition.log_initial(), module.transition.log_transition())
        )
        lasts = module.transition.durations.log_prob().exp().numpy()
    assert 0.3 < np.ptp(potential, 1).max() < 30 and np.ptp(lasts, 0).max() > 0.1

    def weigh(path: tuple[int, ...]) -> float:
        runs = [(k, len(list(run))) for k, run in groupby(path)]
        if max(d for _, d in runs) > 4:
            return 0.0
        p = start[runs[0][0]] * np.prod([A[i, j] for (i, _), (j, _) in pairwise(runs)])
        p *= np.prod([lasts[k, d - 1] for k, d in runs[:-1]]) * lasts[runs[-1][0], runs[-1][1] - 1 :].sum()
        return float(p * np.exp(sum(potential[t, k] for t, k in enumerate(path))))

    p = model.posterior(x)
    stream = model.filter_state() if name == "vae-hmm" else None
    for n in range(1, T + 1):
        paths = list(product(range(3), repeat=n))
        w = np.array([weigh(path) for path in paths])
        online = np.bincount([path[-1] for path in paths], w, 3) / w.sum()
        assert_allclose(p.filtered[n - 1], online, rtol=1e-8)
        if stream is not None:
            assert_allclose(stream.update(x[n - 1]), online, rtol=1e-8)
    for t in range(T):
        assert_allclose(p.smoothed[t], np.bincount([path[t] for path in paths], w, 3) / w.sum(), rtol=1e-8)
    best = np.argsort(-w)[:3]
    found = p.k_best(3)
    assert_array_equal(found.states, np.array(paths)[best])
    assert_allclose(found.log_prob[:, 0], np.log(w[best] / w.sum()), rtol=1e-8)
    share = w[w > 0] / w.sum()
    assert p.entropy[0] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-8)


def test_what_a_deep_posterior_of_stays_does_not_know() -> None:
    model = fitted("vae-hmm", durations="poisson", max_duration=4)
    p, state = model.posterior(X, LENGTHS), model.filter_state()
    for ask in (lambda: p.log_likelihood, lambda: p.log_emission, lambda: state.log_likelihood):
        with pytest.raises(ValueError, match=r"p\(x\) of a deep model is not known"):
            ask()
    with pytest.raises(NotImplementedError, match="SwitchingDMM has no filter_state"):
        fitted("switching-dmm", durations="poisson", max_duration=4).filter_state()
