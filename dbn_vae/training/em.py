"""Baum-Welch, which is EM: expected counts from the exact posterior, then the maximum under them.

    for step in em(model, data):        # the caller's loop is the stopping rule, the bar, the checkpoint
        if step.objective - previous < tol: break

A step is yielded *before* its M-step, so wherever the loop stops the last value yielded belongs to the
parameters the model has.  Source: Rabiner (1989); Dempster, Laird and Rubin (1977) for why it never decreases.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from dbn_vae import inference
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training.compiled import Compiled, compiled
from dbn_vae.training.gradient_em import add, collect, maximize


@dataclass
class EMStep:
    """Values at the parameters the model has now."""

    log_likelihood: float  # Σ_b weight_b log p(x_b)
    objective: float  # the same plus the log-prior of the parameters; this never decreases
    found: "Callable[[], Expectation]"

    @cached_property
    def sums(self) -> "Expectation":
        """All that the E-step found; to be asked before the next step."""
        return self.found()

    @property
    def visits(self) -> Tensor:
        """(K,) expected steps in each state, weighted."""
        return self.sums.visits


class Expectation(NamedTuple):
    """What the M-step needs; sums over sequences, so they add over batches and processes."""

    log_likelihood: Tensor  # ()
    visits: Tensor  # (K,) expected steps in each state
    transition: tuple[Tensor, ...]
    emission: tuple[Tensor, ...]

    def plus(self, other: "Expectation", model: HMM) -> "Expectation":
        return Expectation(
            self.log_likelihood + other.log_likelihood,
            self.visits + other.visits,
            model.transition.add(self.transition, other.transition),
            add(model.emission, [self.emission, other.emission]),
        )


def em(model: HMM, data: Sequences) -> Iterator[EMStep]:
    """Improve an HMM for as long as the caller asks; see gradient_em for emissions without a closed-form M-step.

    Priors and what is frozen are read once, at the first step.

    Raises:
        ValueError: a sequence is impossible under the model.
    """
    with torch.no_grad():
        batches = list(data.batches())
        quick = compiled(model, batches)
    yield from written_out(model, batches) if quick is None else in_one_call(quick, batches[0])


@torch.no_grad()
def written_out(model: HMM, batches: list[Batch]) -> Iterator[EMStep]:
    """The steps as the modules define them."""
    while True:
        e = expect(model, batches)
        log_likelihood = float(e.log_likelihood)
        log_prior = float(model.transition.log_prior()) + float(model.emission.log_prior())
        yield EMStep(log_likelihood, log_likelihood + log_prior, partial(Expectation, *e))
        model.transition.maximize(*e.transition)
        maximize(model.emission, e.emission)


def in_one_call(quick: Compiled, batch: Batch) -> Iterator[EMStep]:
    """The same steps from compiled updates, which know no gradient: to say so at each would take as long as one."""
    while True:
        log_likelihood = quick.climb.expect()
        if not math.isfinite(log_likelihood):
            require_possible(quick.log_z, batch.which)
        objective = log_likelihood + quick.climb.log_prior()
        yield EMStep(log_likelihood, objective, partial(read, quick, log_likelihood))
        quick.maximize()


def read(quick: Compiled, log_likelihood: float) -> Expectation:
    """The sums of a compiled E-step."""
    first, pairs, statistics = quick.sums()
    total = torch.tensor(log_likelihood, dtype=torch.float64)
    return Expectation(total, first + pairs.sum(0), (first, pairs), statistics)


def expect(model: HMM, batches: Iterable[Batch]) -> Expectation:
    """The E-step over all sequences."""
    parts = []
    for batch in batches:
        weight, chain = batch.weights, model.chain(batch)
        if chain.fused and chain.log_transition.dim() == 2:
            log_z, first, pairs, statistics = inference.expect(chain, weight)
            require_possible(log_z, batch.which)
            parts.append(Expectation(weight @ log_z, first + pairs.sum(0), (first, pairs), statistics))
            continue
        posterior = model.verbs.smooth(chain)
        require_possible(posterior.log_z, batch.which)
        weighted = posterior.gamma * weight[:, None, None]
        mask = batch.mask
        x, observed = model.frames(batch)
        # a step of weight w is w observations of one state: its emission counts w times, its moves once
        due = weighted if batch.step_weights is None else weighted * batch.step_weights[..., None]
        parts.append(
            Expectation(
                weight @ posterior.log_z,
                weighted.sum((0, 1)),
                model.transition.statistics(weight, batch.inputs, *posterior),
                collect(model.emission, x[mask], observed[mask], due[mask]),
            )
        )
    return reduce(lambda a, b: a.plus(b, model), parts)


def require_possible(log_z: Tensor, which: Tensor) -> None:
    """Raise ValueError naming the sequences of probability 0."""
    never = log_z == -torch.inf
    if never.any():
        impossible = which[never].tolist()
        raise ValueError(
            f"sequence {impossible[0]} is impossible under the model (log-likelihood −inf; "
            f"{len(impossible)} such in all): a forbidden transition, a symbol of probability 0 or a label "
            "rules out every path. Give the zero probabilities a prior, or fit on data that hold these symbols."
        )
