"""Online EM: a minibatch is enough for an update, and a stream need never end.

The M-step reads running sums s instead of those of all the data, and every minibatch pulls them towards its own,

    s ← (1 − η_t) s + η_t ŝ(minibatch; θ),    θ ← M(s),    η_t = (t + 2)^−α,   ½ < α ≤ 1.

Sums count a sequence; the M-step takes them times the number of sequences they stand for, so that a prior weighs what
it would with all of these at hand.  With η = 1 and every sequence in the batch an update is one of EM.

    for step in online(model, data, batch_size=10, generator=generator): ...

Source: Cappé and Moulines (2009), On-line expectation-maximization algorithm for latent data models; Liang and Klein
(2009), Online EM for unsupervised models, whose stepwise EM with minibatches this is.
"""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from dbn_vae.emissions.base import closed_form
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training.em import Expectation, expect


class Running(NamedTuple):
    """What is remembered of the minibatches so far."""

    average: Expectation  # sums a sequence, centred as the model's present parameters would
    updates: int
    seen: int  # sequences


class OnlineStep(NamedTuple):
    """What one update saw."""

    update: int  # 1 after the first
    epoch: int
    log_likelihood: float  # of this minibatch before its update, per frame, in nats
    step_size: float


def decay(alpha: float = 0.7) -> Callable[[int], float]:
    """η_t = (t + 2)^−α.  Raises ValueError for an α that does not average the noise of minibatches out."""
    if not 0.5 < alpha <= 1:
        raise ValueError(f"alpha={alpha}; step sizes (t + 2)^−alpha converge for 0.5 < alpha <= 1")
    return lambda update: (update + 2.0) ** -alpha


def online(
    model: HMM,
    data: Sequences,
    *,
    batch_size: int,
    generator: torch.Generator,
    step_size: Callable[[int], float] | None = None,
) -> Iterator[OnlineStep]:
    """One update for each step the caller asks, from minibatches of whole sequences in random order.

    step_size gives η_t for t = 1, 2, ...; decay(0.7) unless given.  The first update takes its minibatch's own sums.
    A long sequence is cut by `data.segments(n)`; each piece then counts as a sequence, whose first state π explains.

    Raises:
        TypeError: the M-step of a part reads every frame, not sums of them.
        ValueError: a sequence is impossible under the model.
    """
    eta, running = step_size or decay(), None
    for epoch in range(10**9):
        for batch in data.shuffled(batch_size, generator):
            step = eta(running.updates) if running else 1.0
            log_likelihood, running = update(model, [batch], running, step, len(data))
            frames = float(batch.weights @ batch.lengths.to(batch.weights))
            yield OnlineStep(running.updates, epoch, log_likelihood / max(frames, 1e-300), step)


@torch.no_grad()
def update(
    model: HMM, batches: list[Batch], running: Running | None, step_size: float, total: int | None = None
) -> tuple[float, Running]:
    """One update in place; the log-likelihood of the batches before it, and what to remember.

    Args:
        running: None before the first update, whose sums are the batches' own: there is nothing to average with.
        total: sequences that the sums stand for; without it, as many as were seen so far.
    """
    require_sums(model)
    emission, n = model.emission, sum(len(batch.lengths) for batch in batches)
    e = expect(model, batches)
    now = scaled(e, 1 / n)
    average = now if running is None else mixed(running.average, now, step_size)
    seen = n + (running.seen if running else 0)
    sums = scaled(average, total or seen)
    before = copy.deepcopy(emission)
    assert closed_form(emission)
    assert closed_form(before)
    model.transition.maximize(*sums.transition)
    emission.maximize(*sums.emission)
    average = average._replace(emission=emission.recentred(average.emission, before))
    return float(e.log_likelihood), Running(average, 1 + (running.updates if running else 0), seen)


def has_sums(model: HMM) -> bool:
    """Whether the M-step reads sums, of a size that does not grow with the data."""
    return closed_form(model.emission) and not model.transition.n_inputs


def require_sums(model: HMM) -> None:
    """Raise TypeError naming the part whose M-step reads every frame."""
    if not has_sums(model):
        part = model.emission if not closed_form(model.emission) else model.transition
        raise TypeError(
            f"online EM needs sums, which {type(part).__name__} does not have; use ascend, which takes minibatches "
            "as well"
        )


def remembered(e: Expectation, n_sequences: int) -> Running:
    """What EM's last step found of so many sequences, to go on from."""
    return Running(scaled(e, 1 / n_sequences), 1, n_sequences)


def scaled(e: Expectation, factor: float) -> Expectation:
    """All sums times a number."""
    if factor == 1:
        return e
    return Expectation(
        e.log_likelihood * factor,
        e.visits * factor,
        tuple(s * factor for s in e.transition),
        tuple(s * factor for s in e.emission),
    )


def mixed(a: Expectation, b: Expectation, share: float) -> Expectation:
    """(1 − share) a + share b."""
    a, b = scaled(a, 1 - share), scaled(b, share)
    return Expectation(
        a.log_likelihood + b.log_likelihood,
        a.visits + b.visits,
        tuple(x + y for x, y in zip(a.transition, b.transition, strict=True)),
        tuple(x + y for x, y in zip(a.emission, b.emission, strict=True)),
    )
