"""Mixtures: p(x_t | s_t = k) = Σ_m w_km p_km(x_t), M components of one family in every state.

Given the state, which component gave a frame is one more hidden variable, with posterior
r_n(k, m) ∝ w_km p_km(x_n); a component learns from weights γ_n(k) r_n(k, m).

Source: Juang, Levinson and Sondhi (1986), ML estimation for multivariate mixture observations of Markov chains.
"""

import torch
from torch import Tensor, nn

from dbn_vae.distributions import at, dirichlet_mode, log, log_dirichlet, log_normalized, n_choices
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.compound import Compound, Share


class Mixture(Compound):
    """M components of any family in each of K states.

    Args:
        component: a family of K · M distributions; state k has those from k · M to k · M + M − 1.
        weights: (K, M), rows summing to 1; exact zeros stay zeros.
        concentration: Dirichlet prior on the weights, broadcastable to (K, M); 1 is maximum likelihood.
    """

    def __init__(self, component: Emission, weights: Tensor, concentration: Tensor | float = 1.0) -> None:
        super().__init__()
        self.n_components, self.n_mix = weights.shape
        if component.n_components != weights.numel():
            raise ValueError(
                f"component holds {component.n_components} distributions; weights of shape "
                f"{tuple(weights.shape)} need {weights.numel()}"
            )
        self.component = component
        self.n_features, self.n_context = component.n_features, component.n_context
        self.n_inputs, self.order = component.n_inputs, component.order
        self.logits = nn.Parameter(log(weights))
        self.concentration = concentration

    def weights(self) -> Tensor:
        """(K, M)."""
        return log_normalized(self.logits).exp()

    def with_context(self, x: Tensor, observed: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.component.with_context(x, observed, inputs)

    def check(self, x: Tensor, observed: Tensor) -> None:
        self.component.check(x, observed)

    def log_joint(self, x: Tensor, observed: Tensor) -> Tensor:
        """log w_km p_km(x): (..., K, M)."""
        parts = self.component.log_prob(x, observed)
        return parts.unflatten(-1, (self.n_components, self.n_mix)) + log_normalized(self.logits)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        some = observed[..., : self.n_features].any(-1, keepdim=True)
        # of a frame nobody saw, exactly 0: the weights sum to 1 only up to rounding
        return torch.where(some, self.log_joint(x, observed).logsumexp(-1), 0.0)

    def divide(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[tuple[Tensor, ...], list[Share]]:
        """Own: the expected number of frames of each component, (K, M); frames nobody saw are left out."""
        some = observed[:, : self.n_features].any(-1, keepdim=True)
        share = self.log_joint(x, observed).softmax(-1)
        # where no component could have given the frame the softmax is NaN, and the state's weight 0
        due = torch.where((weights * some > 0)[..., None], weights[..., None] * share, 0.0)
        return (due.sum(0),), [Share(self.component, x, observed, due.flatten(1))]

    @torch.no_grad()
    def maximize_own(self, *statistics: Tensor) -> None:
        (count,) = statistics
        if "weights" not in self.frozen:
            self.logits.copy_(dirichlet_mode(count, self.concentration, self.logits))

    def log_prior(self) -> Tensor:
        return log_dirichlet(self.logits, self.concentration) + self.component.log_prior()

    def n_free(self) -> int:
        own = 0 if "weights" in self.frozen else n_choices(self.logits)
        return own + self.component.n_free()

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        rows = at(self.weights(), generator)[states.flatten()]
        which = torch.multinomial(rows, 1, generator=generator).view(states.shape)
        return self.component.sample(states * self.n_mix + which, generator, inputs)
