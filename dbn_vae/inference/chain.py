"""The discrete chain: potentials in, posteriors out.

A chain over states s_t in {0..K-1} is nothing but three tables of log-potentials,

    p(s_{1:T}, evidence) = exp( log_initial(s_1) + Σ_t log_transition(s_{t-1}, s_t) + Σ_t log_emission_t(s_t) ),

and it does not care whether log_emission comes from data x_t (the classical HMM), from a latent z_t, or from
the closed-form evidence of a VAE-HMM.  −inf is an exact zero everywhere.  Steps t ≥ lengths[b] are padding.

Source: Rabiner (1989), A tutorial on hidden Markov models; the convention is his: s_1 is drawn from the
initial distribution and emits x_1 before any transition.
"""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dbn_vae.inference.potentials import Potential

P = TypeVar("P", bound=Potential, covariant=True)


class Chain(NamedTuple, Generic[P]):
    """Log-potentials of B chains of at most T steps over K states."""

    log_initial: Tensor  # (K,) or (B, K)
    log_transition: Tensor  # (K, K), (B, K, K) or (B, T-1, K, K); row i: from state i
    log_emission: P  # (B, T, K), or a form that stands for it: see potentials.py
    lengths: Tensor | None = None  # (B,) int64; None: every sequence is T long

    @property
    def fused(self) -> bool:
        """The emissions are not written out yet."""
        return not isinstance(self.log_emission, Tensor)

    def dense(self) -> "Chain[Tensor]":
        """The same chain with its emissions written out."""
        emission = self.log_emission
        written = emission if isinstance(emission, Tensor) else emission.dense()
        return Chain(self.log_initial, self.log_transition, written, self.lengths)

    def canonical(self) -> "Chain[P]":
        """The same chain with log_initial (B, K) and lengths (B,) written out, and its tables of one type.

        That is the widest of their types and at least float32, so that nothing is rounded.
        Raises ValueError when the shapes do not fit together, TypeError when a table holds no real numbers.
        """
        initial, transition, emission, lengths = self
        shape = emission.shape
        if len(shape) != 3:
            raise ValueError(f"log_emission has shape {tuple(shape)}; it must be (B, T, K)")
        B, T, K = shape
        if transition.shape not in ((K, K), (B, K, K), (B, T - 1, K, K)):
            raise ValueError(
                f"log_transition has shape {tuple(transition.shape)}; with log_emission {(B, T, K)} "
                f"it must be one of {[(K, K), (B, K, K), (B, T - 1, K, K)]}"
            )
        if initial.shape not in ((K,), (B, K)):
            raise ValueError(f"log_initial has shape {tuple(initial.shape)}; it must be {(K,)} or {(B, K)}")
        if lengths is None:
            lengths = torch.full((B,), T, device=initial.device)
        elif lengths.shape != (B,):
            raise ValueError(f"lengths has shape {tuple(lengths.shape)}; it must be {(B,)}")
        same = self.alike()
        return Chain(same.log_initial.expand(B, K), same.log_transition, same.log_emission, lengths)

    def alike(self) -> "Chain[P]":
        """The same chain, its tables of one type; a form that stands for emissions keeps its own."""
        initial, transition, emission, _ = self
        if not isinstance(emission, Tensor) or (
            initial.dtype == transition.dtype == emission.dtype in (torch.float32, torch.float64)
        ):
            return self
        dtype = common_type(log_initial=initial, log_transition=transition, log_emission=emission)
        return Chain(initial.to(dtype), transition.to(dtype), emission.to(dtype), self.lengths)  # type: ignore[arg-type]

    @property
    def varies_in_time(self) -> bool:
        return self.log_transition.dim() == 4

    def mask(self) -> Tensor:
        """True on real steps, False on padding: (B, T)."""
        B, T, _ = self.log_emission.shape
        device = self.log_initial.device
        if self.lengths is None:
            return torch.ones(B, T, dtype=torch.bool, device=device)
        return torch.arange(T, device=device) < self.lengths[:, None]


def common_type(**tables: Tensor) -> torch.dtype:
    dtype = torch.float32
    for name, table in tables.items():
        if not table.is_floating_point():
            raise TypeError(
                f"{name} has type {table.dtype}; potentials are real numbers, such as {name}.double()"
            )
        dtype = torch.promote_types(dtype, table.dtype)
    return dtype


class Filtered(NamedTuple):
    """What is known online: nothing here looks ahead."""

    log_z: Tensor  # (B,) log p(x_{1:T})
    probs: Tensor  # (B, T, K) p(s_t | x_{1:t}); 0 on padding
    log_normalizer: Tensor  # (B, T) log p(x_t | x_{1:t-1}), which sums to log_z; 0 on padding


class Posterior(NamedTuple):
    """What is known at the end; also the gradient of log_z (Fisher's identity).

    Where log_z is −inf no path is possible, there is no posterior, and gamma and xi are 0.
    """

    log_z: Tensor  # (B,) log p(x_{1:T})
    gamma: Tensor  # (B, T, K) p(s_t | x_{1:T}) = ∂ log_z / ∂ log_emission; 0 on padding
    xi: Tensor  # (B, K, K) Σ_t p(s_{t-1}, s_t | x_{1:T}) = ∂ log_z / ∂ log_transition;
    #             (B, T-1, K, K), not summed, where the transitions vary in time

    @property
    def pairs(self) -> Tensor:
        """Σ_t p(s_{t-1} = i, s_t = j | x_{1:T}): (B, K, K)."""
        return self.xi if self.xi.dim() == 3 else self.xi.sum(1)


class Expected(NamedTuple):
    """Sums over sequences with their weights: what an M-step needs."""

    log_z: Tensor  # (B,) log p(x_{1:T}), not weighted
    first: Tensor  # (K,) Σ_b weight_b p(s_1 | x_{1:T})
    pairs: Tensor  # (K, K) Σ_b weight_b Σ_t p(s_{t-1}, s_t | x_{1:T})
    statistics: tuple[Tensor, ...]  # of the emissions; see potentials.py


class Path(NamedTuple):
    """One state path a sequence."""

    states: Tensor  # (..., B, T) int64; −1 on padding
    score: Tensor  # (..., B) log p(states, x)
