"""EM climbs, stops where the gradient of the exact likelihood vanishes, and says truly where it stands."""

import copy
import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from random_models import FAMILIES, random_chain, random_data, random_model

from dbn_vae import emissions
from dbn_vae.emissions import gaussian
from dbn_vae.models import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em, expect
from dbn_vae.transitions import Stationary

K = 3
close = torch.testing.assert_close


every_family = pytest.mark.parametrize("family", FAMILIES)
summed = pytest.mark.parametrize("family", [f for f in FAMILIES if f != "logistic-regression"])


def one_of(g: torch.Generator, *values: Any) -> Any:
    return values[int(torch.randint(len(values), (), generator=g))]


def random_fit(family: str, seed: int) -> tuple[HMM, Sequences, str]:
    """A model that did not give the data, and what the problem holds: sizes, NaN, weights, a prior, zeros, labels."""
    g = torch.Generator().manual_seed(seed)
    K, D = one_of(g, 1, 2, 3), 2 if family == "product" else one_of(g, 1, 2, 3)
    missing, weights, strength = one_of(g, 0.0, 0.3), one_of(g, False, True), one_of(g, 0.0, 0.5)
    zeros, labelled = one_of(g, 0.0, 0.4), one_of(g, 0.0, 0.0, 0.3)
    chain = random_chain(g, K, strength, zeros)
    model, truth = (HMM(chain, FAMILIES[family](g, strength, K, D)) for _ in range(2))
    n, T = one_of(g, 1, 2, 4), one_of(g, 3, 8, 14)
    data = random_data(family, g, n, missing, weights, T, truth=truth, labelled=labelled)
    for part in model.emission.modules():
        if isinstance(part, gaussian.Gaussian):
            part.floor.fill_(0.05)
    return model, data, f"seed {seed}: {K=} {D=} {missing=} {weights=} {strength=} {zeros=} {labelled=}"


@pytest.mark.some(4)
@every_family
@pytest.mark.parametrize(
    "seeds", [range(8), pytest.param(range(8, 49), marks=pytest.mark.thorough)], ids=["8", "49"]
)
def test_the_objective_never_decreases(family: str, seeds: range) -> None:
    """Hundreds of fits in all, of so few frames that states die and spreads reach their floors."""
    gains = []
    for seed in seeds[::2] if family == "logistic-regression" else seeds:
        model, data, about = random_fit(family, seed)
        values = torch.tensor([step.objective for step in islice(em(model, data), 10)], dtype=torch.float64)
        assert values.isfinite().all(), f"{about}: {values.tolist()}"
        worst = float(values.diff().min())
        scale = float(values.abs().max().clamp_min(1))
        assert worst > -1e-9 * scale, f"{about}: fell by {-worst:.2e}: {values.tolist()}"
        gains.append(float(values[-1] - values[0]))
    assert sum(gain > 1e-3 for gain in gains) > 0.5 * len(gains), "nothing was learnt"


# Of little data the maximum of these lies on a floor or at infinity, or EM needs thousands of updates to come near it:
# they get more, of a truth whose two states stand apart, and a start not far from it.
APART: dict[str, Callable[[Any], Any]] = {
    "student-t": lambda e: (e.loc[1].add_(4), e.log_dof.fill_(0.7)),  # heavy tails, far from a Gaussian's
    "zero-inflated": lambda e: e.base.log_rates[1].add_(1.5),
    "low-rank": lambda e: (
        e.mean[1].add_(4),
        e.loading.add_(1),
    ),  # and of four columns, which tell one factor
    "linear-regression": lambda e: e.mean[1].add_(4),
    "autoregressive": lambda e: e.mean[1].add_(4),
    "logistic-regression": lambda e: e,
    "negative-binomial": lambda e: e.log_mean[1].add_(1.5),
    "full": lambda e: e.mean[1].add_(4),
    "log-normal": lambda e: e.gaussian.mean[1].add_(4),
}


@torch.no_grad()
def interior(family: str, missing: float, weights: bool) -> tuple[HMM, Sequences]:
    """A problem whose penalised likelihood has its maximum inside, where its gradient vanishes."""
    g = torch.Generator().manual_seed(11)
    if family not in APART:
        data = random_data(family, g, 8, missing, weights, T=20)
        return random_model(family, g, strength=1.0), data
    D = 4 if family == "low-rank" else 2
    truth = random_model(family, g, K=2, D=D)
    APART[family](truth.emission)
    n = 12 if family == "logistic-regression" else 40
    data = random_data(family, g, n, missing, weights, T=20, D=D, truth=truth)
    model = random_model(family, g, 1.0, K=2, D=D)
    for p, q in zip(model.emission.parameters(), truth.emission.parameters(), strict=True):
        p.lerp_(q, 0.7)
    return model, data


# whose M-step goes another way where nothing is missing; to the others what is missing weighs 0
BY_PATTERN = ["full", "tied", "log-normal", "mixture", "low-rank", "linear-regression", "autoregressive"]


@pytest.mark.some(8)
@pytest.mark.parametrize(
    ("family", "missing", "weights"),
    [(f, 0.25, True) for f in FAMILIES] + [(f, 0.0, False) for f in BY_PATTERN],
)
def test_where_em_stops_the_gradient_vanishes(family: str, missing: float, weights: bool) -> None:
    """EM and autograd know nothing of each other, and agree on what a maximum is."""
    model, data = interior(family, missing, weights)

    def gradient() -> float:
        batch = data.batch()
        value = batch.weights @ model.objective(batch) + model.log_parameter_prior()
        found = torch.autograd.grad(value, list(model.parameters()))
        return float(torch.cat([d.flatten() for d in found]).abs().max())

    before = gradient()
    last = -math.inf
    for step in islice(em(model, data), 2000):
        gain, last = step.objective - last, step.objective
        if gain < 1e-9:
            break
    else:
        pytest.fail(f"EM still gains {gain:.1e} after 2000 updates")
    assert model.emission.floored == [], "no maximum inside"
    assert gradient() < 1e-3 < 0.1 < before, f"gradient {gradient():.1e}, at the start {before:.1e}"


@every_family
def test_the_value_yielded_last_belongs_to_the_parameters_there_are(family: str) -> None:
    g = torch.Generator().manual_seed(3)
    data = random_data(family, g, weights=True)
    model = random_model(family, g, strength=0.5)
    batch = data.batch()
    for updates, step in enumerate(em(model, data)):
        now = float(batch.weights @ model.objective(batch).detach())
        assert step.log_likelihood == pytest.approx(now, rel=1e-12), f"after {updates} updates"
        assert step.objective == pytest.approx(now + float(model.log_parameter_prior().detach()), rel=1e-12)
        if updates == 4:
            break


@summed
def test_batches_do_not_change_the_e_step(family: str) -> None:
    g = torch.Generator().manual_seed(5)
    data = random_data(family, g, 7, 0.2, True)
    model = random_model(family, g)
    whole = expect(model, [data.batch()])
    for max_frames in (1, 20, 40):
        parts = expect(model, list(data.batches(max_frames)))
        close(parts.log_likelihood, whole.log_likelihood, rtol=1e-12, atol=1e-12)
        close(parts.visits, whole.visits, rtol=1e-12, atol=1e-12)
        for part, sum_of_all in zip(parts.transition, whole.transition, strict=True):
            close(part, sum_of_all, rtol=1e-12, atol=1e-12)
        close(parts.emission, whole.emission, rtol=1e-11, atol=1e-12)


@every_family
def test_weight_2_is_a_duplicate_and_weight_0_is_absence(family: str) -> None:
    g = torch.Generator().manual_seed(7)
    data = random_data(family, g, 4, 0.2)
    model = random_model(family, g, 0.3)
    weighted = data.replace(weights=torch.tensor([2.0, 1.0, 0.0, 1.0], dtype=torch.float64))
    written_out = data.subset([0, 0, 1, 3])
    for a, b in zip(
        islice(em(copy.deepcopy(model), weighted), 6), islice(em(model, written_out), 6), strict=True
    ):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-11)
        assert a.objective == pytest.approx(b.objective, rel=1e-11)
        close(a.visits, b.visits, rtol=1e-9, atol=1e-12)


@every_family
def test_the_order_and_the_names_of_sequences_and_states_mean_nothing(family: str) -> None:
    g = torch.Generator().manual_seed(9)
    data = random_data(family, g, 5)
    model = random_model(family, g)
    shuffled = copy.deepcopy(model)
    p = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for name, parameter in shuffled.named_parameters():
            if name == "transition.transition_logits":
                parameter.copy_(parameter[p][:, p])
            elif len(parameter) == 2 * K:  # the components of a state stand together
                parameter.copy_(parameter.unflatten(0, (K, 2))[p].flatten(0, 1))
            elif family != "tied" or name != "emission.factor":
                parameter.copy_(parameter[p])
    other = data.subset([3, 1, 4, 0, 2])
    for a, b in zip(islice(em(model, data), 6), islice(em(shuffled, other), 6), strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-11)
        assert a.objective == pytest.approx(b.objective, rel=1e-11)
        close(a.visits[p], b.visits, rtol=1e-9, atol=1e-12)
    close(
        shuffled.transition.log_transition(), model.transition.log_transition()[p][:, p], rtol=1e-9, atol=1e-9
    )


def test_known_labels_turn_em_into_counting() -> None:
    g = torch.Generator().manual_seed(2)
    truth = random_model("diagonal", g)
    drawn = [truth.sample(n, g) for n in (30, 1, 25)]
    data = Sequences.from_any([x.numpy() for x, _ in drawn], labels=[s.numpy() for _, s in drawn])
    model = random_model("diagonal", g)
    list(islice(em(model, data), 2))
    first, pairs = torch.zeros(K, dtype=torch.float64), torch.zeros(K, K, dtype=torch.float64)
    for _, s in drawn:
        first[s[0]] += 1
        pairs.index_put_((s[:-1], s[1:]), torch.ones(len(s) - 1, dtype=torch.float64), accumulate=True)
    close(model.transition.log_initial().exp(), first / 3)
    close(model.transition.log_transition().exp(), pairs / pairs.sum(1, keepdim=True))
    x, states = torch.cat([x for x, _ in drawn]), torch.cat([s for _, s in drawn])
    for k in range(K):
        close(model.emission.mean[k], x[states == k].mean(0), msg=f"mean of state {k}")
        close(model.emission.variance()[k], x[states == k].var(0, correction=0), msg=f"variance of state {k}")


def test_an_impossible_sequence_is_named() -> None:
    chain = Stationary(torch.tensor([1.0, 0.0]).double(), torch.eye(2).double())
    model = HMM(chain, emissions.Categorical(torch.eye(2).double()))
    data = Sequences.from_any([[[0.0], [0.0]], [[0.0], [1.0]]])
    with pytest.raises(ValueError, match="sequence 1 is impossible under the model"):
        next(em(model, data))
