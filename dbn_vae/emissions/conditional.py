"""What is missing of a frame, given what was seen of it and the state.

    expected    E[x | observed entries of the frame, s = k]
    likely      the same, and for symbols and angles, which have no mean, the most probable value
    complete    x ~ p(x | observed entries of the frame, s)

Entries that are independent given the state follow from their moments; families of another shape register their own.
"""

from functools import singledispatch

import torch
from torch import Tensor

from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.dense_gaussian import DenseGaussian, patterns
from dbn_vae.emissions.log_normal import LogNormal
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.multinomial import Multinomial
from dbn_vae.emissions.predictive import in_order, moments
from dbn_vae.emissions.product import Product
from dbn_vae.emissions.von_mises import VonMises
from dbn_vae.emissions.zero_inflated import ZeroInflated

Generator = torch.Generator | None


def require_independent(emission: Emission) -> None:
    """Raise NotImplementedError unless the entries of a frame are known to be independent given the state."""
    if emission.n_features == 1 or isinstance(emission, ZeroInflated):
        return
    if emission.distribution().event_shape:
        name = type(emission).__name__
        raise NotImplementedError(
            f"the entries of a frame of {name} may depend on each other: register {name} with `expected` and "
            "`complete` of dbn_vae.emissions.conditional to fill in frames seen in part"
        )


@singledispatch
def expected(emission: Emission, x: Tensor, observed: Tensor) -> Tensor:
    """E[x_t | observed entries of x_t, s_t = k], observed entries as they are: (n, D) to (n, K, D).

    Raises NotImplementedError for a family whose entries may depend on each other and that registers nothing.
    """
    require_independent(emission)
    mean, _ = moments(emission)
    return torch.where(observed[:, None], x[:, None], mean)


@expected.register
def _(emission: DenseGaussian, x: Tensor, observed: Tensor) -> Tensor:
    out = emission.mean.repeat(len(x), 1, 1)
    covariance = emission.covariance()
    for rows, o in patterns(observed):
        # E[x − μ | x_o] = Σ_·o Σ_oo⁻¹ (x_o − μ_o)
        gain = torch.linalg.solve(covariance[:, o][:, :, o], covariance[:, o]).mT  # (K, D, D_o)
        deviation = (x[rows, None] - emission.mean)[..., o]
        out[rows] += (gain @ deviation[..., None]).squeeze(-1)
    return torch.where(observed[:, None], x[:, None], out)


@expected.register
def _(emission: Mixture, x: Tensor, observed: Tensor) -> Tensor:
    each = expected(emission.component, x, observed).unflatten(1, (emission.n_components, emission.n_mix))
    share = emission.log_joint(x, observed).softmax(-1)
    return torch.where(observed[:, None], x[:, None], (share[..., None] * each).sum(-2))


@expected.register
def _(emission: Product, x: Tensor, observed: Tensor) -> Tensor:
    blocks = zip(emission.emissions(), emission.columns, strict=True)
    return in_order(emission, [expected(block, x[:, c], observed[:, c]) for block, c in blocks])


@expected.register
def _(emission: Multinomial, x: Tensor, observed: Tensor) -> Tensor:
    shares = unseen_shares(emission, observed)
    due = trials(emission) - (x * observed).sum(-1)
    return torch.where(observed[:, None], x[:, None], due[:, None, None] * shares)


def unseen_shares(emission: Multinomial, observed: Tensor) -> Tensor:
    """Of the trials left, how many each symbol nobody saw may expect: (n, K, V), 0 where seen."""
    unseen = emission.probs() * ~observed[:, None]
    mass = unseen.sum(-1, keepdim=True)
    return unseen / mass.where(mass > 0, 1.0)


def trials(emission: Multinomial) -> int:
    if emission.n_trials is None:
        raise ValueError("n_trials is None: to fill in counts, say how many trials a row has")
    return emission.n_trials


@expected.register
def _(emission: LogNormal, x: Tensor, observed: Tensor) -> Tensor:
    gaussian, covariance = emission.gaussian, emission.gaussian.covariance()
    logs = expected(gaussian, emission.logs(x, observed), observed)
    spread = moments(gaussian)[1].repeat(len(x), 1, 1)
    for rows, o in patterns(observed):
        gain = torch.linalg.solve(covariance[:, o][:, :, o], covariance[:, o])  # (K, D_o, D)
        spread[rows] -= (gain * covariance[:, o]).sum(1)
    return torch.where(observed[:, None], x[:, None], (logs + spread / 2).exp())


@singledispatch
def likely(emission: Emission, x: Tensor, observed: Tensor) -> Tensor:
    """expected, or where there is no such thing the most probable value: (n, D) to (n, K, D)."""
    return expected(emission, x, observed)


@likely.register
def _(emission: Categorical, x: Tensor, observed: Tensor) -> Tensor:
    return torch.where(observed[:, None], x[:, None], emission.probs().argmax(1, keepdim=True).to(x))


@likely.register
def _(emission: VonMises, x: Tensor, observed: Tensor) -> Tensor:
    return torch.where(observed[:, None], x[:, None], emission.loc)


@likely.register
def _(emission: Product, x: Tensor, observed: Tensor) -> Tensor:
    blocks = zip(emission.emissions(), emission.columns, strict=True)
    return in_order(emission, [likely(block, x[:, c], observed[:, c]) for block, c in blocks])


@singledispatch
def complete(
    emission: Emission, states: Tensor, x: Tensor, observed: Tensor, generator: Generator = None
) -> Tensor:
    """Frames (n, D) in which what was not observed is drawn given what was, and the state: states (n,), x (n, D).

    Raises NotImplementedError as expected does.
    """
    require_independent(emission)
    return torch.where(observed, x, emission.sample(states, generator).to(x))


@complete.register
def _(
    emission: DenseGaussian, states: Tensor, x: Tensor, observed: Tensor, generator: Generator = None
) -> Tensor:
    """A whole frame y is drawn and then moved by E[· | x_o] − E[· | y_o], which leaves the right covariance."""
    y = emission.sample(states, generator)
    row = torch.arange(len(states))
    moved = (expected(emission, x, observed) - expected(emission, y, observed))[row, states]
    return torch.where(observed, x, y + moved)


@complete.register
def _(emission: Mixture, states: Tensor, x: Tensor, observed: Tensor, generator: Generator = None) -> Tensor:
    share = emission.log_joint(x, observed).softmax(-1)[torch.arange(len(states)), states]
    which = torch.multinomial(share, 1, generator=generator).squeeze(1)
    return complete(emission.component, states * emission.n_mix + which, x, observed, generator)


@complete.register
def _(emission: Product, states: Tensor, x: Tensor, observed: Tensor, generator: Generator = None) -> Tensor:
    blocks = zip(emission.emissions(), emission.columns, strict=True)
    parts = [complete(block, states, x[:, c], observed[:, c], generator) for block, c in blocks]
    return in_order(emission, parts)


@complete.register
def _(
    emission: Multinomial, states: Tensor, x: Tensor, observed: Tensor, generator: Generator = None
) -> Tensor:
    shares = unseen_shares(emission, observed)[torch.arange(len(states)), states]
    due = (trials(emission) - (x * observed).sum(-1)).long()
    out = torch.where(observed, x, 0.0)
    for n in due.unique().tolist():
        rows = (due == n) & (shares.sum(-1) > 0)
        if n and bool(rows.any()):
            drawn = torch.multinomial(shares[rows], n, replacement=True, generator=generator)
            out[rows] += torch.zeros_like(out[rows]).scatter_add_(1, drawn, torch.ones_like(drawn).to(out))
    return out


@complete.register
def _(
    emission: LogNormal, states: Tensor, x: Tensor, observed: Tensor, generator: Generator = None
) -> Tensor:
    drawn = complete(emission.gaussian, states, emission.logs(x, observed), observed, generator)
    return torch.where(observed, x, drawn.exp())
