"""Log-normal emissions: log x_t is Gaussian, so p(x_t | s_t = k) = N(log x_t; μ_k, Σ_k) / Π_d x_td."""

import torch
from torch import Tensor

from dbn_vae.emissions.compound import Compound, Share
from dbn_vae.emissions.gaussian import Gaussian
from dbn_vae.likelihoods.base import require


class LogNormal(Compound):
    """x > 0.

    Args:
        gaussian: the distribution of log x, of any covariance type, with its prior and floor.
    """

    def __init__(self, gaussian: Gaussian) -> None:
        super().__init__()
        self.n_components, self.n_features = gaussian.n_components, gaussian.n_features
        self.gaussian = gaussian

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        logs = self.logs(x, observed)
        return self.gaussian.log_prob(logs, observed) - logs.sum(-1, keepdim=True)

    def logs(self, x: Tensor, observed: Tensor) -> Tensor:
        """log x, 0 where unobserved."""
        return torch.where(observed, x, 1.0).log()

    def check(self, x: Tensor, observed: Tensor) -> None:
        require((x > 0) | ~observed, x, "log-normal", "its values are positive")

    def divide(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[tuple[Tensor, ...], list[Share]]:
        return (), [Share(self.gaussian, self.logs(x, observed), observed, weights)]

    def maximize_own(self, *statistics: Tensor) -> None:
        """There is nothing but the Gaussian."""

    def log_prior(self) -> Tensor:
        return self.gaussian.log_prior()

    def n_free(self) -> int:
        return self.gaussian.n_free()

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        return self.gaussian.sample(states, generator).exp()
