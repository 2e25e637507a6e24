"""Variational Bayes for hidden Markov models: EM whose parameters are distributions.

With q(s, θ) = q(s) q(θ) the log evidence is bounded by

    F = log Z(E_q log π, E_q log A, E_q log p(x | θ)) − KL(q(θ) ‖ p(θ)) ≤ log p(x),

where log Z is the forward algorithm on potentials that are expected logarithms, so that rows sum to less than 1.  Both
halves of the ascent have a closed form: q(s) is the smoother under those potentials, and q(θ) the conjugate posterior
given expected counts.  So this is `em` with other parts: a part's potentials are its expected logarithms, maximize
is the conjugate update, and log_prior is −KL.  At K = 1 q(θ) is exact, and F is the evidence.

Source: Beal (2003), Variational algorithms for approximate Bayesian inference, chapter 3.
"""

import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution

from dbn_vae.emissions.base import ClosedForm, Emission
from dbn_vae.emissions.categorical import Categorical
from dbn_vae.inference.potentials import Table
from dbn_vae.transitions.base import Transition


def expected_log(concentration: Tensor) -> Tensor:
    """E log p under Dirichlet rows: ψ(α) − ψ(Σ α)."""
    return torch.digamma(concentration) - torch.digamma(concentration.sum(-1, keepdim=True))


def kl_dirichlet(posterior: Tensor, prior: Tensor) -> Tensor:
    """KL(Dir(posterior) ‖ Dir(prior)), summed over rows: ()."""

    def log_normalizer(a: Tensor) -> Tensor:
        return torch.lgamma(a).sum(-1) - torch.lgamma(a.sum(-1))

    energy = ((posterior - prior) * expected_log(posterior)).sum(-1)
    return (energy - log_normalizer(posterior) + log_normalizer(prior)).sum()


class DirichletChain(Transition):
    """q(π) and q(A): Dirichlet, row by row.

    Args:
        startprob_prior: (K,) concentration, positive.
        transmat_prior: (K, K) concentrations, positive.
    """

    def __init__(self, startprob_prior: Tensor, transmat_prior: Tensor) -> None:
        super().__init__()
        self.n_components = len(startprob_prior)
        self.startprob_prior = self.startprob_posterior = startprob_prior
        self.transmat_prior = self.transmat_posterior = transmat_prior

    def log_initial(self, inputs: Tensor | None = None) -> Tensor:
        return expected_log(self.startprob_posterior)

    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        return expected_log(self.transmat_posterior)

    def maximize(self, first: Tensor, pairs: Tensor) -> None:
        if "initial" not in self.frozen:
            self.startprob_posterior = self.startprob_prior + first
        if "transition" not in self.frozen:
            self.transmat_posterior = self.transmat_prior + pairs

    def log_prior(self) -> Tensor:
        """−KL(q ‖ p)."""
        start = kl_dirichlet(self.startprob_posterior, self.startprob_prior)
        return -start - kl_dirichlet(self.transmat_posterior, self.transmat_prior)

    def n_free(self) -> int:
        K = self.n_components
        return (K - 1) * (("initial" not in self.frozen) + K * ("transition" not in self.frozen))


class CategoricalPosterior(Emission, ClosedForm):
    """q(B): Dirichlet, row by row.

    Args:
        emissionprob_prior: (K, V) concentrations, positive.
    """

    n_features = 1

    def __init__(self, emissionprob_prior: Tensor) -> None:
        super().__init__()
        self.n_components, self.n_symbols = emissionprob_prior.shape
        self.emissionprob_prior = self.emissionprob_posterior = emissionprob_prior

    def expected(self) -> Categorical:
        """The family at E B."""
        return Categorical(self.emissionprob_posterior / self.emissionprob_posterior.sum(-1, keepdim=True))

    def distribution(self) -> Distribution:
        return TorchCategorical(probs=self.expected().probs()[:, None], validate_args=False)

    def check(self, x: Tensor, observed: Tensor) -> None:
        self.expected().check(x, observed)

    def potential(self, x: Tensor, observed: Tensor) -> Table:
        return Table(x.squeeze(-1), observed.squeeze(-1), expected_log(self.emissionprob_posterior))

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        """E_q log p(x_t | s_t = k): (..., K)."""
        return self.potential(x, observed).dense()

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Expected counts of each symbol in each state: (K, V)."""
        return self.potential(x, observed).statistics(weights)

    def maximize(self, *statistics: Tensor) -> None:
        (count,) = statistics
        if "probs" not in self.frozen:
            self.emissionprob_posterior = self.emissionprob_prior + count

    def log_prior(self) -> Tensor:
        """−KL(q ‖ p)."""
        return -kl_dirichlet(self.emissionprob_posterior, self.emissionprob_prior)

    def n_free(self) -> int:
        return 0 if "probs" in self.frozen else self.n_components * (self.n_symbols - 1)
