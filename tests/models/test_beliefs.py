"""What a path of z says of the states, carried forward and back, against the recursions over whole sequences."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dbn_vae.models.chains import sum_out_states
from dbn_vae.models.particles import Belief, ChainBelief, RecurrentBelief, StaysBelief
from dbn_vae.nn import beside
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.transitions.durations import CategoricalDuration
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary

K, T, U, Z, S = 3, 7, 2, 2, 2
g = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def driven(n: int) -> InputDriven:
    chain = InputDriven(random(K).softmax(-1), random(K, K).softmax(-1), n)
    with torch.no_grad():
        chain.initial_slope.copy_(random(K, n))
        chain.transition_slope.copy_(random(K, K, n))
    return chain


def stays() -> SemiMarkov:
    apart = random(K, K).masked_fill(torch.eye(K, dtype=torch.bool), -torch.inf).softmax(-1)
    return SemiMarkov(Stationary(random(K).softmax(-1), apart), CategoricalDuration(random(K, 3).softmax(-1)))


KINDS: dict[str, Any] = {
    "chain": (ChainBelief, lambda: Stationary(random(K).softmax(-1), random(K, K).softmax(-1))),
    "inputs": (ChainBelief, lambda: driven(U)),
    "z and inputs": (RecurrentBelief, lambda: driven(Z + U)),
    "stays": (StaysBelief, stays),
}


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_back_meet_in_the_same_sum_at_every_step(kind: str) -> None:
    """Σ belief · message is p(z_{1:T}) less what the updates took out, at every t; and FWD says so too."""
    make, chain = KINDS[kind]
    transition = chain()
    states: Belief = make(transition)
    x = np.zeros((T, 1))
    u = random(T, U).numpy() if "inputs" in kind else None
    batch: Batch = Sequences.from_any(x, inputs=u).batch()
    z, log_p = random(S, 1, T, Z), 2 * random(S, 1, T, K)

    def at(t: int) -> Tensor | None:
        return None if batch.inputs is None else batch.inputs[:, t]

    beliefs, upto = [], [torch.zeros(S, 1, dtype=torch.float64)]
    for t in range(T):
        before = states.predict(beliefs[-1], z[:, :, t - 1], at(t)) if t else states.begin(S, batch)
        gained, belief = states.update(before, log_p[:, :, t])
        beliefs.append(belief)
        upto.append(upto[-1] + gained)
    message = states.end.expand_as(beliefs[-1])
    for t in reversed(range(T)):
        whole = upto[t + 1] + (beliefs[t] + message).flatten(2).logsumexp(-1)
        torch.testing.assert_close(whole, upto[-1], rtol=1e-12, atol=1e-12)
        if t:
            message = states.back(log_p[:, :, t], message, z[:, :, t - 1], at(t))
    inputs = None
    if isinstance(states, RecurrentBelief):
        before = torch.cat([torch.zeros_like(z[:, :, :1]), z[:, :, :-1]], 2)
        inputs = beside(before, batch.inputs)
    torch.testing.assert_close(
        upto[-1], sum_out_states(transition, log_p, batch, inputs), rtol=1e-12, atol=1e-12
    )
