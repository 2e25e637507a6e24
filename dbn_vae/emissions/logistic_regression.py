"""Logistic regression on inputs: p(x_td = 1 | u_t, s_t = k) = 1 / (1 + exp(−w_kd·u_t − b_kd)), for yes or no.

The M-step is concave and has no closed form: it is climbed by gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbn_vae.distributions import at
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.linear_regression import beside
from dbn_vae.likelihoods.base import require


class LogisticRegression(Emission):
    """x ∈ {0, 1}; frozen may name "intercept" and "slope".

    Args:
        intercept: b, (K, D).
        slope: W, (K, D, U).
        precision: of the Gaussian prior on W about 0; 0 is maximum likelihood, which does not exist where the inputs
            tell the two values apart without error.
    """

    def __init__(self, intercept: Tensor, slope: Tensor, precision: float = 0.0) -> None:
        super().__init__()
        self.n_components, self.n_features, self.n_context = slope.shape
        self.n_inputs = self.n_context
        self.intercept, self.slope = nn.Parameter(intercept.clone()), nn.Parameter(slope.clone())
        self.precision = precision

    def with_context(self, x: Tensor, observed: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        return beside(x, observed, inputs, self.n_context)

    def logits(self, inputs: Tensor) -> Tensor:
        """(..., U) to (..., K, D)."""
        return torch.einsum("...u,kdu->...kd", inputs, self.slope) + self.intercept

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        value, inputs = x[..., : self.n_features], x[..., self.n_features :]
        sign = 2 * value - 1
        entry = F.logsigmoid(sign[..., None, :] * self.logits(inputs))
        return (entry * observed[..., None, : self.n_features]).sum(-1)

    def check(self, x: Tensor, observed: Tensor) -> None:
        require((x == 0) | (x == 1) | ~observed, x, "logistic regression", "its values are 0 and 1")

    def log_prior(self) -> Tensor:
        return -0.5 * self.precision * self.slope.square().sum()

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        like = self.intercept[states]
        u, _ = beside(like[..., :0], like[..., :0].bool(), inputs, self.n_context)
        logits = like + (self.slope[states] @ u[..., None]).squeeze(-1)
        return torch.bernoulli(at(logits.sigmoid(), generator), generator=generator).to(like)
