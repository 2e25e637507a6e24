"""Functional forms of an emission, which an engine may evaluate where it needs them.

    Quadratic:  log_emission_t(k) = Σ_d m_td log N(x_td; mean_kd, scale_kd²)
    Whitened:   log_emission_t(k) = m_t log N(x_t; mean_k, Σ_k),  Σ_k = L_k L_kᵀ
    Table:      log_emission_t(k) = m_t log_probs[k, x_t]

with m = 1 on observed entries, 0 elsewhere.  Each stands in a Chain where a tensor (B, T, K) may; `dense` is that
tensor, and `statistics` are the sums of an M-step.  Both are the definition; compiled kernels fuse them.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Quadratic(NamedTuple):
    """Diagonal Gaussians."""

    x: Tensor  # (..., D)
    observed: Tensor  # (..., D) bool
    mean: Tensor  # (K, D)
    log_scale: Tensor  # (K, D)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.x.shape[:-1], self.mean.shape[0])

    def detach(self) -> "Quadratic":
        return Quadratic(self.x, self.observed, self.mean.detach(), self.log_scale.detach())

    def dense(self) -> Tensor:
        """(..., K), in nats."""
        terms = []
        for mean, log_scale in zip(self.mean, self.log_scale, strict=True):
            # K passes over (..., D) instead of one (..., K, D) block
            scaled = (self.x - mean) * (-log_scale).exp()
            entry = -0.5 * scaled.square() - log_scale - 0.5 * math.log(2 * math.pi)
            terms.append((entry * self.observed).sum(-1))
        return torch.stack(terms, -1)

    def statistics(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Σ w m, Σ w m (x − mean), Σ w m (x − mean)² with weights (..., K): (K, D) each."""
        x, observed, weights = self.x.flatten(0, -2), self.observed.flatten(0, -2), weights.flatten(0, -2)
        count = weights.T @ observed.to(x.dtype)
        first, second = torch.empty_like(count), torch.empty_like(count)
        for k, mean in enumerate(self.mean):
            deviation = (x - mean) * observed
            first[k] = weights[:, k] @ deviation
            second[k] = weights[:, k] @ deviation.square()
        return count, first, second


class Whitened(NamedTuple):
    """Gaussians with full covariances, of frames observed as a whole or not at all."""

    x: Tensor  # (..., D)
    observed: Tensor  # (...) bool
    mean: Tensor  # (K, D)
    scale_tril: Tensor  # (K, D, D) L, lower triangular

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.x.shape[:-1], self.mean.shape[0])

    def detach(self) -> "Whitened":
        return Whitened(self.x, self.observed, self.mean.detach(), self.scale_tril.detach())

    def dense(self) -> Tensor:
        """(..., K), in nats."""
        constant = 0.5 * self.x.shape[-1] * math.log(2 * math.pi)
        terms = []
        for mean, L in zip(self.mean, self.scale_tril, strict=True):
            z = torch.linalg.solve_triangular(L.mT, self.x - mean, upper=True, left=False)
            terms.append(-0.5 * z.square().sum(-1) - L.diagonal().abs().log().sum() - constant)
        return torch.where(self.observed[..., None], torch.stack(terms, -1), 0.0)

    def statistics(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Σ w m (K, 1), Σ w m (x − mean) (K, D), Σ w m (x − mean)(x − mean)ᵀ (K, D, D), with weights (..., K)."""
        x, weights = self.x.flatten(0, -2), (weights * self.observed[..., None]).flatten(0, -2)
        first, second = torch.empty_like(self.mean), torch.empty_like(self.scale_tril)
        for k, mean in enumerate(self.mean):
            deviation = x - mean
            first[k] = weights[:, k] @ deviation
            second[k] = (weights[:, k, None] * deviation).T @ deviation
        return weights.sum(0)[:, None], first, second


class Table(NamedTuple):
    """Symbols 0..V−1."""

    symbols: Tensor  # (...) whole numbers, of any type
    observed: Tensor  # (...) bool
    log_probs: Tensor  # (K, V)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.symbols.shape, self.log_probs.shape[0])

    def detach(self) -> "Table":
        return self._replace(log_probs=self.log_probs.detach())

    def dense(self) -> Tensor:
        """(..., K), in nats."""
        return torch.where(self.observed[..., None], self.log_probs.T[self.symbols.long()], 0.0)

    def statistics(self, weights: Tensor) -> tuple[Tensor]:
        """Σ w [x = v] over observed symbols, with weights (..., K): (K, V)."""
        seen = (weights * self.observed[..., None]).flatten(0, -2)
        count = weights.new_zeros(self.log_probs.T.shape)
        return (count.index_add(0, self.symbols.flatten().long(), seen).T,)


Fused = Quadratic | Whitened | Table
Potential = Tensor | Fused
