"""Autoregression of order p: p(x_t | x_{t-1}, …, x_{t-p}, s_t = k) = N(x_t; b_k + Σ_l A_kl x_{t-l}, Σ_k).

The likelihood is that of Hamilton (1989): conditional on the first p frames of every sequence, which have no density of
their own.  For the same reason a frame says nothing where an entry of its p predecessors is missing; the states of
such frames are still inferred, from their neighbours.  Scores compare only with models scored on the same frames.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from dbn_vae.emissions.linear_regression import LinearRegression


class Autoregressive(LinearRegression):
    """The last p frames of the same sequence as regressors; frozen may name "mean", "slope", "covariance".

    Args:
        mean: the intercepts b, (K, D).
        coefficients: A, (K, p, D, D), the matrix of lag 1 first.
        covariance: (K, D, D).
        floor: see Gaussian.
    """

    def __init__(
        self, mean: Tensor, coefficients: Tensor, covariance: Tensor, floor: Tensor | None = None
    ) -> None:
        width = coefficients.shape[1] * coefficients.shape[-1]
        slope = coefficients.transpose(1, 2).reshape(*mean.shape, width)
        super().__init__(mean, slope, covariance, floor)
        self.order, self.n_inputs = coefficients.shape[1], 0  # what it reads beside a frame is earlier ones

    def coefficients(self) -> Tensor:
        """A: (K, p, D, D)."""
        return self.slope.unflatten(-1, (self.order, -1)).transpose(1, 2)

    def with_context(self, x: Tensor, observed: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Every sequence is a row of its own, so nothing comes from another one; before its start nothing was seen."""
        lags = range(1, self.order + 1)
        T = x.shape[-2]
        past = [pad(x, (0, 0, lag, 0))[..., :T, :] for lag in lags]
        known = [pad(observed, (0, 0, lag, 0))[..., :T, :] for lag in lags]
        return torch.cat([x, *past], -1), torch.cat([observed, *known], -1)

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        """Paths along the last dimension of states; before the first frame stands the mean to which its state tends."""
        start = self.settled()[states[..., 0]]
        past = [start] * self.order  # the latest first
        for t in range(states.shape[-1]):
            u = torch.cat(past[: self.order], -1)
            past.insert(0, super().sample(states[..., t], generator, u))
        return torch.stack(past[: states.shape[-1]][::-1], -2)

    def settled(self) -> Tensor:
        """The μ with μ = b + Σ_l A_l μ; the intercept where there is none: (K, D)."""
        system = torch.eye(self.n_features).to(self.mean) - self.coefficients().sum(1)
        solution, info = torch.linalg.solve_ex(system, self.mean[..., None])
        return torch.where(info[:, None] == 0, solution.squeeze(-1), self.mean)
