"""What a chain, of states or of stays, says to a user: probabilities of moves, odds under inputs, lengths of stays."""

import torch
from torch import Tensor

from dbn_vae.evaluation.quantities import (
    Quantity,
    as_called,
    at_an_end,
    bounded,
    held,
    known_as,
    own,
    quantities,
    quantity,
    rare,
    simplex,
    within,
)
from dbn_vae.models.hmm import HMM
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.durations import CategoricalDuration, NegativeBinomialDuration
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.partly_fixed import PartlyFixed
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.tied import Tied


def model_quantities(model: HMM, data: Sequences) -> list[Quantity]:
    """All that a model has learnt from the data, and what follows from its chain."""
    chain, emission = quantities(model.transition, data), quantities(model.emission, data)
    return [*chain, *emission, *consequences(model.transition, data)]


@own.register
def _(module: Stationary, data: Sequences) -> list[Quantity]:
    return [start(module, data), simplex(module, "transition_logits", "transmat", data.n_frames)]


def start(module: Stationary, data: Sequences) -> Quantity:
    q = simplex(module, "initial_logits", "startprob", len(data))
    # the likelihood of one sequence is linear in π: its maximum is a corner
    none = torch.zeros_like(module.initial_logits, dtype=torch.bool)
    return q._replace(free=none) if len(data) == 1 else q


@own.register
def _(module: PartlyFixed, data: Sequences) -> list[Quantity]:
    A = module.log_transition().exp()
    single = (module.transition_logits.detach() > -torch.inf).sum(1, keepdim=True) < 2
    q = simplex(module, "transition_logits", "transmat", data.n_frames)
    fixed = (
        module.fixed | single if q.fixed is None else q.fixed
    )  # of one that is left, the rest is known as well
    return [start(module, data), q._replace(value=A, edge=at_an_end(A, data.n_frames), fixed=fixed)]


@own.register
def _(module: Tied, data: Sequences) -> list[Quantity]:
    """Of the groups of each distribution the largest is what the others leave."""
    A = module.log_transition().exp()
    theta = module.mean(A).detach()
    free = ~rare(theta, data.n_frames)
    for row in module.groups:
        free[row[theta[row].argmax()]] = False  # rows of one distribution have the same largest group
    edge = at_an_end(A, data.n_frames)
    moves = quantity(module, "transition_logits", "transmat", A, free=free, scale="logit", edge=edge)
    return [start(module, data), moves]


@own.register
def _(module: InputDriven, data: Sequences) -> list[Quantity]:
    u, K = module.known(data.inputs), module.n_components
    arrived = torch.ones(data.n_frames, dtype=torch.bool).index_fill(0, data.starts, value=False)
    first = tells(module.first_under(u[data.starts])) & (len(data) > 1)
    moves = tells(module.moves_under(u[arrived]))
    found = odds(module, "initial", first, torch.zeros(K)) + odds(module, "transition", moves, torch.eye(K))
    order = [name for name, _ in module.named_parameters()]
    return sorted(found, key=lambda q: order.index(q.name))


def odds(module: InputDriven, which: str, told: Tensor, stay: Tensor) -> list[Quantity]:
    """Logits and slopes less those of staying, or of the first state that is possible: on these nothing depends."""
    logits, slope = module.get_parameter(f"{which}_logits"), module.get_parameter(f"{which}_slope")
    possible = logits.detach() > -torch.inf
    reference = (possible * (1 + stay)).argmax(-1, keepdim=True)
    other = possible.scatter(-1, reference, value=False)
    level = torch.where(possible, logits, 0.0)  # −∞ has no difference
    across = reference[..., None].expand(*reference.shape, slope.shape[-1])

    def one(raw: str, value: Tensor, shown: Tensor, free: Tensor) -> Quantity:
        q = quantity(module, raw, raw, value, free=free, shown=shown, edge=shown & ~free)
        return held(q) if which in module.frozen else q

    wide = [mask[..., None].expand_as(slope) for mask in (other, told & other)]
    return [
        one(f"{which}_logits", level - level.gather(-1, reference), other, told & other),
        one(f"{which}_slope", slope - slope.gather(-2, across), *wide),
    ]


def tells(log_p: Tensor) -> Tensor:
    """Whether choices (n, ..., K), one under each input, tell of the logits of their probabilities."""
    p = log_p.detach().exp()
    return ~torch.as_tensor(rare((p * (1 - p)).sum(0), 1))


@quantities.register
def _(module: SemiMarkov, data: Sequences) -> list[Quantity]:
    found = quantities(module.moves, data)
    stays = quantities(module.durations, data)
    found = [held(q) if known_as(q.name) in module.frozen else q for q in found]
    return found + [held(q) if "duration" in module.frozen else q for q in within("durations", stays)]


@own.register
def _(module: CategoricalDuration, data: Sequences) -> list[Quantity]:
    q = simplex(module, "logits", "probs", data.n_frames)
    longer = torch.arange(module.max_duration) >= module.min_duration - 1
    return [q._replace(shown=longer.expand_as(q.value))]


@own.register
def _(module: NegativeBinomialDuration, data: Sequences) -> list[Quantity]:
    """As of the counts: r → ∞ is Poisson."""
    excess = (module.log_mean - module.log_size).detach().exp()
    edge = {"log_size": rare(excess.square(), data.n_frames)}
    names = [name for name, _ in module.named_parameters()]
    return [bounded(module, raw, edge[raw]) if raw in edge else as_called(module, raw) for raw in names]


# -- what follows from a transition


def consequences(module: Transition, data: Sequences) -> list[Quantity]:
    """The long-run share of time in each state, "stationary", and how long it lasts at a time, "mean stay".

    Where inputs drive the chain they differ from step to step, and are left out.
    """
    if module.n_inputs:
        return []
    A, n = module.log_transition().exp(), data.n_frames
    balance = stationary(A)
    if isinstance(module, SemiMarkov):  # A is from stay to stay
        stay = module.durations.mean()
        balance = balance * stay / (balance @ stay)
    else:
        stay = 1 / (1 - A.diagonal())
    found = [
        Quantity("stationary", balance, "logit", at_an_end(balance, n)),
        Quantity("mean stay", stay, "log over 1", at_an_end(1 / stay, n)),
    ]
    moves = [q for q in quantities(module, data) if q.name != "startprob"]
    known = all(q.fixed is not None and bool(q.fixed.all()) for q in moves)
    return [held(q) for q in found] if known else found


def stationary(A: Tensor) -> Tensor:
    """The π with π A = π: (K,)."""
    K = len(A)
    system = torch.cat([A.T - torch.eye(K).to(A), torch.ones(1, K).to(A)])
    positive = torch.linalg.pinv(system)[:, -1].clamp_min(0)
    return positive / positive.sum()
