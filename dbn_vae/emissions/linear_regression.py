"""Linear regression on inputs: p(x_t | u_t, s_t = k) = N(x_t; W_k u_t + b_k, Σ_k).

With all inputs zero it is the full Gaussian.  A frame whose inputs are not all known says nothing: it has no density
of this form.
"""

from typing import Self

import torch
from torch import Tensor, nn

from dbn_vae.distributions import noise
from dbn_vae.emissions.dense_gaussian import FullGaussian, patterns
from dbn_vae.emissions.gaussian import GaussianPrior
from dbn_vae.inference.potentials import Potential


class LinearRegression(FullGaussian):
    """Inputs u_t (U) stand behind the entries of a frame; frozen may name "mean", "slope", "covariance".

    Args:
        mean: the intercepts b, (K, D).
        slope: W, (K, D, U).
        covariance: (K, D, D).
        floor: see Gaussian.
    """

    def __init__(self, mean: Tensor, slope: Tensor, covariance: Tensor, floor: Tensor | None = None) -> None:
        super().__init__(mean, covariance, GaussianPrior(), floor)
        self.slope = nn.Parameter(slope.clone())
        self.n_context = self.n_inputs = slope.shape[-1]

    def with_context(self, x: Tensor, observed: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        return beside(x, observed, inputs, self.n_context)

    def deviation(self, frames: Tensor) -> Tensor:
        D = self.n_features
        return frames[:, :D] - self.mean[:, None] - frames[:, D:] @ self.slope.mT

    def seen(self, observed: Tensor) -> Tensor:
        """Entries that count: observed, and with everything that they are regressed on."""
        D = self.n_features
        return observed[..., :D] & observed[..., D:].all(-1, keepdim=True)

    def potential(self, x: Tensor, observed: Tensor) -> Potential:
        """Written out: the functional form of a Gaussian has the same mean at every step."""
        return self.log_prob(x, observed)

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        return super().log_prob(x, self.seen(observed))

    def statistics(self, x: Tensor, observed: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """With v = (1, u) and e = E[x − W u − b | what was observed]: Σ w v vᵀ (K, 1+U, 1+U), Σ w e vᵀ (K, D, 1+U) and
        Σ w (e eᵀ + covariance of the unobserved) (K, D, D)."""
        K, D, U = self.slope.shape
        covariance, seen = self.covariance(), self.seen(observed)
        squares, cross, second = x.new_zeros(K, 1 + U, 1 + U), x.new_zeros(K, D, 1 + U), x.new_zeros(K, D, D)
        for rows, o in patterns(seen):
            e, v = self.deviation(x[rows])[..., o], torch.cat([x.new_ones(len(rows), 1), x[rows, D:]], 1)
            for k in range(K):
                w, Sigma = weights[rows, k], covariance[k]
                gain = torch.linalg.solve(Sigma[o][:, o], Sigma[o]).T  # (D, D_o)
                second[k] += w.sum() * (Sigma - gain @ Sigma[o])
                whole = e[k] @ gain.T
                weighted = w[:, None] * whole
                squares[k] += (w[:, None] * v).T @ v
                cross[k] += weighted.T @ v
                second[k] += weighted.T @ whole
        return squares, cross, second

    @torch.no_grad()
    def maximize(self, *statistics: Tensor) -> None:
        squares, cross, second = statistics
        free = torch.full((squares.shape[-1],), "slope" not in self.frozen, device=cross.device)
        free[0] = "mean" not in self.frozen
        change = torch.zeros_like(cross)
        # inputs that never vary, or always vary together, leave W undetermined: the pseudo-inverse moves it least
        inverse = torch.linalg.pinv(squares[:, free][:, :, free], hermitian=True)
        change[..., free] = cross[..., free] @ inverse
        self.mean.add_(change[..., 0])
        self.slope.add_(change[..., 1:])
        if "covariance" in self.frozen:
            return
        outer = change @ cross.mT
        scatter = second - outer - outer.mT + change @ squares @ change.mT
        count = squares[:, :1, 0]
        rounding = 8 * torch.finfo(scatter.dtype).eps * self.ratio(second, count).diagonal(dim1=-2, dim2=-1)
        self.factor.copy_(torch.linalg.cholesky(self.floored_at(self.ratio(scatter, count), rounding)))

    def recentred(self, statistics: tuple[Tensor, ...], before: Self) -> tuple[Tensor, ...]:
        squares, cross, second = statistics
        change = torch.cat([(self.mean - before.mean)[..., None], self.slope - before.slope], -1).detach()
        outer = change @ cross.mT
        return squares, cross - change @ squares, second - outer - outer.mT + change @ squares @ change.mT

    def n_free(self) -> int:
        return super().n_free() + (0 if "slope" in self.frozen else self.slope.numel())

    def sample(
        self, states: Tensor, generator: torch.Generator | None = None, inputs: Tensor | None = None
    ) -> Tensor:
        like = self.mean[states]
        u, _ = beside(like[..., :0], like[..., :0].bool(), inputs, self.n_context)
        mean = like + (self.slope[states] @ u[..., None]).squeeze(-1)
        eps = noise(tuple(mean.shape), mean, generator)
        return mean + (self.scale_tril()[states] @ eps[..., None]).squeeze(-1)


def beside(x: Tensor, observed: Tensor, inputs: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """The inputs as columns of the frames, and observed.  Raises ValueError where they are missing or do not fit."""
    shape = None if inputs is None else tuple(inputs.shape)
    if inputs is None or inputs.shape != (*x.shape[:-1], width):
        raise ValueError(
            f"inputs of shape {shape}: this emission is a regression on {width} inputs a frame, so give inputs "
            f"of shape {(*x.shape[:-1], width)}, for data by Sequences.from_any(X, inputs=...)"
        )
    return torch.cat([x, inputs], -1), torch.cat([observed, torch.ones_like(inputs, dtype=torch.bool)], -1)
