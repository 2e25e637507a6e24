"""The same A at every step: p(s_1 = k) = π_k, p(s_t = j | s_{t-1} = i) = A_ij.

A sticky chain is the same one with a Dirichlet prior that adds κ pseudo-counts of staying to each row's
(Fox, Sudderth, Jordan and Willsky 2011).  Exact zeros in π and A are structure: no M-step revives them.
"""

import torch
from torch import Tensor, nn

from dbn_vae.distributions import dirichlet_mode, log, log_dirichlet, log_normalized, n_choices
from dbn_vae.transitions.base import Transition


class Stationary(Transition):
    """π and A, learnt from expected counts.

    Args:
        startprob: (K,) π.
        transmat: (K, K) A.
        startprob_prior, transmat_prior: Dirichlet concentrations, broadcastable; 1 is maximum likelihood.
    """

    def __init__(
        self,
        startprob: Tensor,
        transmat: Tensor,
        startprob_prior: Tensor | float = 1.0,
        transmat_prior: Tensor | float = 1.0,
    ) -> None:
        super().__init__()
        self.n_components = len(startprob)
        self.initial_logits = nn.Parameter(log(startprob))
        self.transition_logits = nn.Parameter(log(transmat))
        self.startprob_prior, self.transmat_prior = startprob_prior, transmat_prior

    def log_initial(self, inputs: Tensor | None = None) -> Tensor:
        return log_normalized(self.initial_logits)

    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        return log_normalized(self.transition_logits)

    @torch.no_grad()
    def maximize(self, first: Tensor, pairs: Tensor) -> None:
        if "initial" not in self.frozen:
            self.initial_logits.copy_(dirichlet_mode(first, self.startprob_prior, self.initial_logits))
        if "transition" not in self.frozen:
            self.transition_logits.copy_(dirichlet_mode(pairs, self.transmat_prior, self.transition_logits))

    def log_prior(self) -> Tensor:
        start = log_dirichlet(self.initial_logits, self.startprob_prior)
        return start + log_dirichlet(self.transition_logits, self.transmat_prior)

    def n_free(self) -> int:
        start = 0 if "initial" in self.frozen else n_choices(self.initial_logits)
        return start + (0 if "transition" in self.frozen else n_choices(self.transition_logits))
