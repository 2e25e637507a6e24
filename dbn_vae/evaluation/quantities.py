"""What the parameters of a hidden Markov model are to a user: means, rates and probabilities, not logits and factors.

    θ, unconstrained    ─►    quantities f(θ), named as `frozen` names them, and as the path to the part that has them

A family that registers nothing is read as its parameters are called: log_rates is the logarithm of the rates.
"""

from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dbn_vae.distributions import log_normalized
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.bernoulli import Bernoulli
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.emissions.dense_gaussian import FullGaussian, TiedGaussian
from dbn_vae.emissions.gamma import Gamma
from dbn_vae.emissions.gaussian import DiagonalGaussian, SphericalGaussian
from dbn_vae.emissions.low_rank_gaussian import LowRankGaussian
from dbn_vae.emissions.mixture import Mixture
from dbn_vae.emissions.multinomial import Multinomial
from dbn_vae.emissions.negative_binomial import NegativeBinomial
from dbn_vae.emissions.poisson import Poisson
from dbn_vae.emissions.student_t import StudentT
from dbn_vae.emissions.von_mises import VonMises
from dbn_vae.emissions.zero_inflated import ZeroInflated
from dbn_vae.sequences import Sequences
from dbn_vae.transitions.base import Transition

RARE = 0.01  # events expected in the data, under which a probability or a rate is at its edge
ABOVE = 1 + 1e-6  # times its floor is a spread that no floor holds
# where `frozen` calls a quantity otherwise than a user does
FROZEN_AS = {"startprob": "initial", "transmat": "transition", "noise": "covariance"}


class Quantity(NamedTuple):
    """One parameter as a user reads it, or what follows from several."""

    name: str
    value: Tensor  # (K, ...), a row a state; (K / shared, ...) where states share rows; differentiable
    scale: str = ""  # on which it has no end: "log", "logit", "matrix" of covariances, "log over 1"; "" of real numbers
    edge: Tensor | None = None  # bool, of the value's shape: at the edge of its range
    fixed: Tensor | None = None  # bool, of the value's shape: no M-step moves it
    shown: Tensor | None = None  # bool, of the value's shape: says something that no other entry does
    shared: int = 1
    parameter: nn.Parameter | None = None  # that the value reads
    free: Tensor | None = None  # bool, of the parameter's shape: coordinates of θ, away from every edge


def rare(p: Any, n: int) -> Any:
    """Whether an event of this probability or rate is expected less than RARE times in n."""
    return p * n < RARE


def quantity(module: nn.Module, raw: str, name: str, value: Tensor, **facts: Any) -> Quantity:
    """A quantity of the module's parameter `raw`; of one that is not learnt no entry is free."""
    p, K = module.get_parameter(raw), int(module.n_components)  # type: ignore[arg-type]
    free = torch.isfinite(p.detach()) & facts.pop("free", True)
    if "shared" not in facts and (value.dim() == 0 or len(value) != K):
        value, facts["shared"] = value[None], K  # a parameter without states
    found = Quantity(name, value, parameter=p, free=free, **facts)
    frozen = module.frozen if isinstance(module, Emission | Transition) else frozenset()
    return found if p.requires_grad and not frozen & {raw, raw.split(".")[0], known_as(name)} else held(found)


def known_as(name: str) -> str:
    """What `frozen` calls a quantity."""
    return FROZEN_AS.get(name, name)


def held(q: Quantity) -> Quantity:
    """The same, not learnt."""
    none = None if q.free is None else torch.zeros_like(q.free)
    return q._replace(free=none, fixed=torch.ones_like(q.value, dtype=torch.bool))


def as_called(module: nn.Module, raw: str, **facts: Any) -> Quantity:
    """A parameter log_x as x, another as it is."""
    p, logarithm = module.get_parameter(raw), raw.startswith("log_")
    name, value = (raw.removeprefix("log_"), p.exp()) if logarithm else (raw, p)
    return quantity(module, raw, name, value, **{"scale": "log" if logarithm else ""} | facts)


def within(path: str, found: list[Quantity]) -> list[Quantity]:
    return [q._replace(name=f"{path}.{q.name}") for q in found]


@singledispatch
def own(module: nn.Module, data: Sequences) -> list[Quantity]:
    """The quantities of the parameters that no emission within has, in the order of the parameters."""
    parts = tuple(f"{path}." for path, _ in inner(module))
    names = (name for name, _ in module.named_parameters())
    return [as_called(module, name) for name in names if not name.startswith(parts)]


def inner(module: nn.Module) -> list[tuple[str, Emission]]:
    """The emissions that a module is made of, and their paths."""
    found: list[tuple[str, Emission]] = []
    for name, child in module.named_children():
        if isinstance(child, Emission):
            found.append((name, child))
        else:
            found += [(f"{name}.{path}", part) for path, part in inner(child)]
    return found


@singledispatch
def quantities(module: nn.Module, data: Sequences) -> list[Quantity]:
    """Everything learnt from the data, in the order of the parameters."""
    parts = [within(path, quantities(part, data)) for path, part in inner(module)]
    return own(module, data) + [q for part in parts for q in part]


@quantities.register
def _(module: Mixture, data: Sequences) -> list[Quantity]:
    """Components of a state stand together: (K M, ...) as (K, M, ...)."""
    M = module.n_mix

    def by_state(x: Tensor | None, shared: int) -> Tensor | None:
        return x if x is None or shared >= M else x.unflatten(0, (module.n_components, M // shared))

    parts = []
    for q in quantities(module.component, data):
        value, edge, fixed, shown = (by_state(x, q.shared) for x in (q.value, q.edge, q.fixed, q.shown))
        assert value is not None
        parts.append(
            q._replace(value=value, edge=edge, fixed=fixed, shown=shown, shared=max(q.shared // M, 1))
        )
    return own(module, data) + within("component", parts)


@own.register(Categorical)
@own.register(Multinomial)
def _(module: Categorical | Multinomial, data: Sequences) -> list[Quantity]:
    return [simplex(module, "logits", "probs", data.n_frames)]


@own.register
def _(module: Mixture, data: Sequences) -> list[Quantity]:
    return [simplex(module, "logits", "weights", data.n_frames)]


def simplex(module: nn.Module, raw: str, name: str, n: int) -> Quantity:
    """Rows of probabilities from their logits: the largest of each is 1 less the others, and no coordinate."""
    p = log_normalized(module.get_parameter(raw)).exp()
    free = ~largest(p.detach()) & ~rare(p.detach(), n)
    return quantity(module, raw, name, p, free=free, scale="logit", edge=at_an_end(p, n))


def largest(p: Tensor) -> Tensor:
    return nn.functional.one_hot(p.argmax(-1), p.shape[-1]) > 0


def at_an_end(p: Tensor, n: int) -> Tensor:
    """Whether a probability is as good as 0 or 1."""
    edge: Tensor = rare(torch.minimum(p, 1 - p).detach(), n)
    return edge


@own.register
def _(module: Bernoulli, data: Sequences) -> list[Quantity]:
    return [chance(module, "probs", data.n_frames)]


@own.register
def _(module: ZeroInflated, data: Sequences) -> list[Quantity]:
    return [chance(module, "inflation", data.n_frames)]


def chance(module: nn.Module, name: str, n: int) -> Quantity:
    """Probabilities of yes, from their logits."""
    p = module.get_parameter("logits").sigmoid()
    edge = at_an_end(p, n)
    return quantity(module, "logits", name, p, free=~edge, scale="logit", edge=edge)


@own.register
def _(module: Poisson, data: Sequences) -> list[Quantity]:
    return [bounded(module, "log_rates", rare(module.rates().detach(), data.n_frames))]


def bounded(module: nn.Module, raw: str, edge: Tensor) -> Quantity:
    """A positive parameter that is known to be at the edge of its range."""
    return as_called(module, raw, free=~edge, edge=edge)


@own.register
def _(module: NegativeBinomial, data: Sequences) -> list[Quantity]:
    """r → ∞ is Poisson: 1/r is known to about 1/(μ √n)."""
    mean, excess = module.mean().detach(), (module.mean() / module.size()).detach()
    n = data.n_frames
    return [bounded(module, "log_mean", rare(mean, n)), bounded(module, "log_size", rare(excess.square(), n))]


@own.register
def _(module: StudentT, data: Sequences) -> list[Quantity]:
    """dof → ∞ is Gaussian: 1/dof is known to about 1/√n."""
    scale = module.scale().detach()
    free = scale.square() > module.lowest(scale.square()) * ABOVE
    edge = rare(module.dof().detach() ** -2, data.n_frames)
    return [
        as_called(module, "loc"),
        as_called(module, "log_scale", free=free),
        bounded(module, "log_dof", edge),
    ]


@own.register
def _(module: Gamma, data: Sequences) -> list[Quantity]:
    free = 1 / module.shape().detach() > module.floor * ABOVE
    return [as_called(module, "log_shape", free=free), as_called(module, "log_rate")]


@own.register
def _(module: VonMises, data: Sequences) -> list[Quantity]:
    """Without concentration there is no direction."""
    kappa = module.concentration().detach()
    even = rare(kappa.square(), data.n_frames)
    free = ~even & (1 / kappa > module.floor * ABOVE)
    return [
        as_called(module, "loc", free=~even, edge=even),
        as_called(module, "log_concentration", free=free, edge=even),
    ]


@own.register
def _(module: DiagonalGaussian, data: Sequences) -> list[Quantity]:
    """Variances (K, D), or of spheres (K,)."""
    variance = (2 * module.log_scale).exp()
    free = variance.detach() > module.lowest(module.floor) * ABOVE
    compact = variance.squeeze(1) if isinstance(module, SphericalGaussian) else variance
    spread = quantity(module, "log_scale", "covariance", compact, free=free, scale="log")
    return [as_called(module, "mean"), spread]


@own.register
def _(module: FullGaussian, data: Sequences) -> list[Quantity]:
    """Matrices (K, D, D), or fewer that states share; of a regression the slopes as well."""
    factor = module.factor.tril()
    matrix = factor @ factor.mT
    scale = module.floor.clamp_min(1e-300).sqrt()
    least = torch.linalg.svdvals((factor / scale[:, None]).detach())[..., -1]
    free = torch.ones_like(factor, dtype=torch.bool).tril() & (least > ABOVE)[..., None, None]
    shared = module.n_sharing if isinstance(module, TiedGaussian) else 1
    spread = quantity(
        module,
        "factor",
        "covariance",
        matrix if matrix.dim() == 3 else matrix[None],
        free=free,
        scale="matrix",
        shared=shared,
    )
    names = [name for name, _ in module.named_parameters()]
    return [spread if name == "factor" else as_called(module, name) for name in names]


@own.register
def _(module: LowRankGaussian, data: Sequences) -> list[Quantity]:
    """Σ itself, since W is known up to a rotation: of R (R − 1) / 2 of its entries nothing depends.

    Nor does anything depend on which part of Σ is ψ where W and ψ have more numbers than Σ: ψ is not shown then.
    """
    free = torch.ones_like(module.loading, dtype=torch.bool).tril()
    above = module.noise().detach() > module.floor * ABOVE
    told = torch.full_like(above, module.n_surplus <= 0)
    rest = torch.arange(module.n_features, device=above.device) >= module.n_surplus
    Sigma = quantity(module, "loading", "covariance", module.covariance(), free=free, scale="matrix")
    noise = as_called(module, "log_noise", free=above & rest, shown=told)
    return [as_called(module, "mean"), Sigma, noise]
