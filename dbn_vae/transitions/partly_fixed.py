"""Entries of A that are known, beside others that are learned.

Row i has fixed entries A_ij = f_ij and free ones that share what is left, r_i = 1 − Σ_fixed f_ij:

    A_ij = r_i q_ij,   Σ_j q_ij = 1 over the free entries,   q_ij ∝ expected counts in the M-step.

A fixed entry's count adds a constant to the expected log-likelihood, so that it moves nothing.
"""

import torch
from torch import Tensor

from dbn_vae.distributions import log, log_dirichlet, log_normalized
from dbn_vae.transitions.stationary import Stationary


class PartlyFixed(Stationary):
    """A with some entries held at their values; π is learned.

    Args:
        startprob, transmat, startprob_prior, transmat_prior: see Stationary; a prior acts on the free entries alone.
        fixed: (K, K) bool, True where the entry of transmat is kept.

    Raises ValueError where fixed is no Boolean table of transmat's shape, or a row does not sum to 1.
    """

    def __init__(
        self,
        startprob: Tensor,
        transmat: Tensor,
        fixed: Tensor,
        startprob_prior: Tensor | float = 1.0,
        transmat_prior: Tensor | float = 1.0,
    ) -> None:
        if fixed.shape != transmat.shape or fixed.dtype != torch.bool:
            raise ValueError(
                f"fixed has shape {tuple(fixed.shape)} and type {fixed.dtype}; it is a Boolean table of the shape "
                f"of transmat, {tuple(transmat.shape)}"
            )
        sums = transmat.sum(1)
        if not ((transmat >= 0).all() and torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=1e-6)):
            raise ValueError(f"transmat must hold probabilities; its rows sum to {sums.tolist()}")
        super().__init__(startprob, transmat, startprob_prior, transmat_prior)
        free = transmat * ~fixed
        self.fixed: Tensor
        self.log_fixed: Tensor
        self.log_rest: Tensor
        self.register_buffer("fixed", fixed)
        self.register_buffer("log_fixed", torch.where(fixed, log(transmat), 0.0))
        self.register_buffer("log_rest", log(free.sum(1, keepdim=True)))  # −inf: nothing is left to share
        with torch.no_grad():
            self.transition_logits.copy_(log(free))

    def shares(self) -> Tensor:
        """Logits of q, with something to normalise in rows that share nothing: (K, K)."""
        return torch.where(self.log_rest > -torch.inf, self.transition_logits, 0.0)

    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        return torch.where(self.fixed, self.log_fixed, self.log_rest + log_normalized(self.shares()))

    @torch.no_grad()
    def maximize(self, first: Tensor, pairs: Tensor) -> None:
        super().maximize(first, pairs)
        self.transition_logits.masked_fill_(self.log_rest == -torch.inf, -torch.inf)

    def log_prior(self) -> Tensor:
        start = log_dirichlet(self.initial_logits, self.startprob_prior)
        return start + log_dirichlet(self.shares(), self.transmat_prior)
