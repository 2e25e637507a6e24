"""Durations and the semi-Markov model: maxima where they claim to be, EM that climbs, and the HMM where they meet."""

import math
from collections.abc import Callable
from itertools import groupby, islice, pairwise

import pytest
import torch
from torch import Tensor

from dbn_vae.emissions import Categorical, DiagonalGaussian
from dbn_vae.models import HMM, HSMM
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em, expect
from dbn_vae.transitions import (
    CategoricalDuration,
    Duration,
    NegativeBinomialDuration,
    PoissonDuration,
    SemiMarkov,
    Stationary,
)
from dbn_vae.transitions.durations import log_tails

K, D = 3, 9
close = torch.testing.assert_close


def positive(g: torch.Generator, *shape: int) -> Tensor:
    return 0.3 + 2 * torch.rand(*shape, generator=g, dtype=torch.float64)


def simplex(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64).softmax(-1)


def free(g: torch.Generator, concentration: float = 1.0, low: int = 2) -> CategoricalDuration:
    probs = simplex(g, K, D)
    probs[0, 4] = probs[1, D - 1] = 0  # impossible: in the middle, and the longest
    return CategoricalDuration(probs, concentration, low)


# one line a family, and its number of free parameters, counted by hand
FAMILIES: dict[str, tuple[Callable[[torch.Generator], Duration], int]] = {
    "categorical": (free, 6 + 6 + 7),
    "categorical-map": (lambda g: free(g, 1.4), 6 + 6 + 7),
    "poisson": (lambda g: PoissonDuration(2 * positive(g, K), D, 2), K),
    "negative-binomial": (lambda g: NegativeBinomialDuration(2 * positive(g, K), positive(g, K), D), 2 * K),
    "geometric": (lambda g: NegativeBinomialDuration(positive(g, K), torch.ones(K).double(), D, 2, True), K),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def off_diagonal(g: torch.Generator) -> Tensor:
    A = simplex(g, K, K) * (1 - torch.eye(K))
    return A / A.sum(1, keepdim=True)


def made(family: str, seed: int) -> tuple[HSMM, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    moves = Stationary(simplex(g, K), off_diagonal(g), 1.2, 1.2)
    return HSMM(SemiMarkov(moves, FAMILIES[family][0](g)), Categorical(simplex(g, K, 4), 1.5)), g


@every_family
@pytest.mark.parametrize("seed", range(4))
def test_the_m_step_is_a_maximum(family: str, seed: int) -> None:
    """Q does not fall, and its gradient vanishes where the M-step ends; nearby Q is lower."""
    model, g = made(family, seed)
    duration = model.transition.durations
    possible = duration.log_prob() > -math.inf
    fewer = 20 * 0.6 ** torch.arange(D)  # rising counts would send a geometric to its edge
    ended, censored = (fewer * torch.rand(K, D, generator=g, dtype=torch.float64) for _ in range(2))
    ended, censored = ended * possible, censored * (duration.log_survival() > -math.inf)

    def objective() -> Tensor:
        p, s = duration.log_prob(), duration.log_survival()
        both = (ended, p), (censored, s)
        return sum((torch.where(n > 0, n * x, 0.0).sum() for n, x in both), duration.log_prior())  # type: ignore[return-value]

    before = objective().item()
    duration.maximize(ended, censored)
    top = objective()
    assert top.item() > before
    slopes = torch.autograd.grad(top, list(duration.parameters()))
    assert max(float(s.abs().max()) for s in slopes) < 1e-5
    assert torch.equal(duration.log_prob() > -math.inf, possible), "what was impossible stays so"
    close(duration.log_prob().exp().sum(1), torch.ones(K).double(), rtol=1e-12, atol=0)
    with torch.no_grad():
        for _ in range(5):
            old = [p.clone() for p in duration.parameters()]
            for p in duration.parameters():
                p += 0.05 * torch.randn(p.shape, generator=g, dtype=p.dtype)
            assert objective().item() < top.item()
            for p, value in zip(duration.parameters(), old, strict=True):
                p.copy_(value)


@every_family
def test_n_free_is_the_dimension_of_what_it_can_be(family: str) -> None:
    model, _ = made(family, 0)
    duration = model.transition.durations
    values = tuple(p.detach() for p in duration.parameters())
    names = [n for n, _ in duration.named_parameters()]

    class Asked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.duration = duration

        def forward(self) -> Tensor:
            return self.duration.log_prob().exp().flatten()

    def says(*given: Tensor) -> Tensor:
        named = {f"duration.{n}": v for n, v in zip(names, given, strict=True)}
        return torch.func.functional_call(Asked(), named, ())

    jacobian = torch.autograd.functional.jacobian(says, values)
    flat = torch.cat([j.flatten(1) for j in jacobian], 1)[
        :, torch.cat([v.flatten() for v in values]) > -math.inf
    ]
    assert torch.linalg.matrix_rank(flat, tol=1e-9) == duration.n_free() == FAMILIES[family][1]
    chain = model.transition
    assert chain.n_free() == (K - 1) + K * (K - 2) + duration.n_free()
    chain.frozen = frozenset({"duration"})
    assert chain.n_free() == (K - 1) + K * (K - 2)


def test_survival_has_second_derivatives_where_few_tails_count() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, generator=g, dtype=torch.float64, requires_grad=True)

    def some(x: Tensor) -> Tensor:
        log_p = torch.nn.functional.pad(x.log_softmax(-1), (2, 0), value=-math.inf)
        return log_tails(log_p)[:, :5].square()  # nothing depends on the last four

    assert torch.autograd.gradcheck(some, logits)
    assert torch.autograd.gradgradcheck(some, logits)


def test_survival_is_the_tail_and_the_families_are_scipys() -> None:
    from scipy import stats

    g = torch.Generator().manual_seed(0)
    rate, size = 2 * positive(g, K), positive(g, K)
    n = torch.arange(D - 2).numpy()
    for duration, law in (
        (PoissonDuration(rate, D, 3), lambda k: stats.poisson(rate[k].item())),
        (
            NegativeBinomialDuration(rate, size, D, 3),
            lambda k: stats.nbinom(size[k].item(), (size / (size + rate))[k].item()),
        ),
    ):
        p, s = duration.log_prob().exp(), duration.log_survival().exp()
        for k in range(K):
            cut = law(k).pmf(n) / law(k).pmf(n).sum()
            close(p[k, 2:], torch.as_tensor(cut), rtol=1e-11, atol=0)
            close(s[k], torch.stack([p[k, d:].sum() for d in range(D)]), rtol=1e-12, atol=0)
        assert (p[:, :2] == 0).all()
        close(duration.mean(), (p * torch.arange(1, D + 1)).sum(1), rtol=1e-13, atol=0)


def data_of(model: HMM, g: torch.Generator, lengths: list[int]) -> Sequences:
    xs = [model.sample(n, g)[0].double() for n in lengths]
    return Sequences.from_any([x.numpy() for x in xs], weights=[0.5 + i % 3 for i in range(len(xs))])


@pytest.mark.some(4)
@every_family
@pytest.mark.parametrize("seed", range(2))
def test_em_never_falls_and_rests_only_where_the_gradient_vanishes(family: str, seed: int) -> None:
    """The gradient of Q, which an M-step brings to 0, is that of the log-likelihood where its counts were taken."""
    model, g = made(family, seed)
    data = data_of(made(family, seed + 50)[0], g, [30, 1, 12, 45, 3, 28])
    values: list[float] = []
    for step in islice(em(model, data), 20):
        values.append(step.objective)
    assert min(b - a for a, b in pairwise(values)) > -1e-9
    assert values[-1] > values[0] + 0.5
    close(step.visits.sum(), (data.weights * data.lengths).sum(), rtol=1e-10, atol=0)
    batch, chain = data.batch(), model.transition
    value = batch.weights @ model.objective(batch) + model.log_parameter_prior()
    assert value.item() == pytest.approx(expect(model, [batch]).log_likelihood.item()
                                         + model.log_parameter_prior().item(), abs=1e-9)  # fmt: skip
    counts = expect(model, [batch]).transition
    tables = (
        chain.log_initial(),
        chain.log_transition(),
        chain.durations.log_prob(),
        chain.durations.log_survival(),
    )
    q = sum(
        (torch.where(n > 0, n * p, 0.0).sum() for n, p in zip(counts, tables, strict=True)), chain.log_prior()
    )
    parameters = list(chain.parameters())
    for mine, exact in zip(*(torch.autograd.grad(v, parameters) for v in (q, value)), strict=True):
        close(mine, exact, rtol=1e-7, atol=1e-9)


def test_with_geometric_stays_em_is_baum_welch() -> None:
    """Update by update: log-likelihood, A, π, emission.  The cut at 400 leaves less than rounding."""
    g = torch.Generator().manual_seed(3)
    A = 0.5 * torch.eye(K).double() + 0.5 * simplex(g, K, K)
    pi, probs = simplex(g, K), simplex(g, K, 4)
    stay = A.diagonal()
    moves = A * (1 - torch.eye(K)) / (1 - stay)[:, None]
    durations = NegativeBinomialDuration(stay / (1 - stay), torch.ones(K).double(), 400, geometric=True)
    semi = HSMM(SemiMarkov(Stationary(pi, moves), durations), Categorical(probs))
    hmm = HMM(Stationary(pi, A), Categorical(probs))
    data = data_of(hmm, g, [25, 1, 14, 30])
    for ours, theirs in islice(zip(em(semi, data), em(hmm, data), strict=False), 6):
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-9)
        close(ours.visits, theirs.visits, rtol=1e-7, atol=1e-7)
        staying = semi.transition.durations.log_mean.exp()
        learnt = hmm.transition.log_transition().exp()
        close(staying / (1 + staying), learnt.diagonal(), rtol=1e-6, atol=1e-7)
        rest = learnt * (1 - torch.eye(K)) / (1 - learnt.diagonal())[:, None]
        close(semi.transition.log_transition().exp(), rest, rtol=1e-6, atol=1e-8)
        close(semi.emission.probs(), hmm.emission.probs(), rtol=1e-6, atol=1e-8)


def test_statistics_add_over_batches() -> None:
    model, g = made("categorical", 1)
    data = data_of(model, g, [12, 5, 1, 20, 20])
    whole = expect(model, [data.batch()])
    for max_frames in (1, 30):
        parts = expect(model, data.batches(max_frames))
        for mine, all_of_it in zip(parts.transition, whole.transition, strict=True):
            close(mine, all_of_it, rtol=1e-12, atol=1e-12)
    first, pairs, ended, censored = whole.transition
    close(ended.sum(), pairs.sum(), rtol=1e-12, atol=0)  # a stay that ends is followed by a move
    close(censored.sum(), data.weights.sum(), rtol=1e-12, atol=0)  # and every sequence has one last stay
    close(((ended + censored) * torch.arange(1, D + 1)).sum(1), whole.visits, rtol=1e-11, atol=0)
    close(first.sum(), data.weights.sum(), rtol=1e-12, atol=0)


@every_family
def test_samples_and_decoded_paths_keep_the_bounds(family: str) -> None:
    model, g = made(family, 2)
    low, longest = model.transition.durations.min_duration, D
    x, states = model.sample(600, g)
    decoded = model.viterbi(
        Sequences.from_any(torch.randint(4, (600, 1), generator=g).double()).batch()
    ).states[0]
    for path in (states, decoded):
        runs = [(k, len(list(run))) for k, run in groupby(path.tolist())]
        assert all(low <= n <= longest for _, n in runs[:-1]) and runs[-1][1] <= longest
    runs = [(k, len(list(run))) for k, run in groupby(model.sample(20_000, g)[1].tolist())][:-1]
    p = model.transition.durations.log_prob().exp()
    for k in range(K):
        lengths = torch.tensor([n for state, n in runs if state == k])
        share = torch.bincount(lengths, minlength=D + 1)[1:].double()
        z = (share - len(lengths) * p[k]) / (len(lengths) * p[k] * (1 - p[k])).sqrt()
        assert z[p[k] > 0].abs().max() < 4.5 and (share[p[k] == 0] == 0).all()
    assert x.shape == (600, 1)


def test_labels_are_evidence() -> None:
    """All known: only the score of that path is left."""
    model, g = made("poisson", 4)
    x, states = model.sample(25, g)
    data = Sequences.from_any(x.double().numpy(), labels=states.numpy())
    batch = data.batch()
    log_z = model.objective(batch)
    unlabelled = batch._replace(labels=None)
    close(log_z, model.verbs.path_score(model.chain(unlabelled), states[None]), rtol=1e-12, atol=0)
    assert torch.equal(model.viterbi(batch).states[0], states)


def test_durations_are_recovered() -> None:
    """From the data alone, within what 6,000 frames can tell: a bell shape, and not the HMM's geometric."""
    g = torch.Generator().manual_seed(5)
    moves = torch.tensor([[0, 1], [1, 0]]).double()
    half = torch.tensor([0.5, 0.5]).double()
    emission = DiagonalGaussian(torch.tensor([[-1.0], [1.0]]).double(), torch.ones(2, 1).double())
    truth = HSMM(
        SemiMarkov(Stationary(half, moves), PoissonDuration(torch.tensor([6.0, 14.0]).double(), 40)), emission
    )
    data = Sequences.from_any([truth.sample(300, g)[0].numpy() for _ in range(20)])
    start = DiagonalGaussian(torch.tensor([[-0.5], [0.5]]).double(), torch.ones(2, 1).double())
    model = HSMM(
        SemiMarkov(Stationary(half, moves), PoissonDuration(torch.tensor([9.0, 9.0]).double(), 40)), start
    )
    for _ in islice(em(model, data), 25):
        pass
    close(model.transition.durations.log_rate.exp(), torch.tensor([6.0, 14.0]).double(), rtol=0.06, atol=0)
    close(model.emission.mean, emission.mean, rtol=0.1, atol=0)
    with torch.no_grad():
        assert model.objective(data.batch()).sum() > truth.objective(data.batch()).sum(), (
            "the maximum beats the truth"
        )


def test_errors_name_the_argument_and_the_remedy() -> None:
    half = torch.full((2, 2), 0.5).double()
    with pytest.raises(ValueError, match=r"states \[0, 1\] move to themselves; set the diagonal"):
        SemiMarkov(Stationary(half[0], half), PoissonDuration(half[0], 5))
    with pytest.raises(ValueError, match="moves has 2 states, durations 3"):
        SemiMarkov(Stationary(half[0], half.flip(0)), PoissonDuration(torch.ones(3).double(), 5))
    with pytest.raises(ValueError, match="min_duration=6, max_duration=5"):
        PoissonDuration(half[0], 5, 6)
    with pytest.raises(ValueError, match=r"concentration=0\.5"):
        CategoricalDuration(half, 0.5)
