"""How long a stay lasts: p_k(d) for d = min_duration..max_duration, in each of K states.

    Categorical        p_k(d) free: non-parametric
    Poisson            d − min_duration ~ Poisson(λ_k)
    NegativeBinomial   d − min_duration ~ NB(r_k, p_k), n ↦ Γ(n + r) / (Γ(r) n!) (1 − p)^n p^r; r = 1 is the geometric

The last two are cut off at max_duration and normalised.  The M-step sees stays that ended after d steps, n_kd, and
others of which only the first d steps were seen, c_kd, and raises

    Q(θ) = Σ_d n_kd log p_k(d) + c_kd log S_k(d) + log p(θ),    S_k(d) = P(a stay lasts at least d),

for the free distribution in closed form, and by Newton's method for the others.

Source: Guédon (2003), Estimating hidden semi-Markov chains from discrete sequences; Kaplan and Meier (1958).
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dbn_vae.distributions import log, log_dirichlet, log_normalized, n_choices
from dbn_vae.transitions.newton import newton


class Duration(nn.Module, ABC):
    """K distributions of a stay of min_duration to max_duration steps."""

    def __init__(self, n_components: int, min_duration: int, max_duration: int) -> None:
        super().__init__()
        if not 1 <= min_duration <= max_duration:
            raise ValueError(
                f"min_duration={min_duration}, max_duration={max_duration}; they are steps, 1 ≤ min ≤ max"
            )
        self.n_components, self.min_duration, self.max_duration = n_components, min_duration, max_duration

    @abstractmethod
    def log_prob(self) -> Tensor:
        """log p_k(d) for d = 1..max_duration: (K, D), −inf under min_duration."""

    def log_survival(self) -> Tensor:
        """log P(a stay in k lasts at least d): (K, D)."""
        return log_tails(self.log_prob())

    @abstractmethod
    def maximize(self, ended: Tensor, censored: Tensor) -> None:
        """Raise Q, given expected stays (K, D) that ended after d steps, and that were seen for d steps."""

    @abstractmethod
    def n_free(self) -> int: ...

    def log_prior(self) -> Tensor:
        return torch.zeros(())

    def mean(self) -> Tensor:
        """E d: (K,)."""
        p = self.log_prob().exp()
        return p @ torch.arange(1, self.max_duration + 1).to(p)

    def beyond(self, like: Tensor) -> Tensor:
        """d − min_duration for d = min_duration..max_duration."""
        return torch.arange(self.max_duration - self.min_duration + 1).to(like)

    def from_minimum(self, log_weight: Tensor) -> Tensor:
        """Weights of those d as log-probabilities of d = 1..max_duration: (K, D)."""
        return nn.functional.pad(log_normalized(log_weight), (self.min_duration - 1, 0), value=-math.inf)


def log_tails(log_prob: Tensor) -> Tensor:
    """log Σ_{d' ≥ d} p(d'): (..., D).

    By doubling: the second derivatives of torch.logcumsumexp are NaN where nothing depends on a tail.
    """
    possible = log_prob > -math.inf
    nothing = torch.finfo(log_prob.dtype).min / 2  # in place of −∞, whose derivatives are NaN
    tail, seen = torch.where(possible, log_prob, nothing), 1
    while seen < log_prob.shape[-1]:
        later = nn.functional.pad(tail[..., seen:], (0, seen), value=nothing)
        tail, seen = torch.stack([tail, later]).logsumexp(0), 2 * seen
    return torch.where(tails(possible.to(log_prob)) > 0, tail, -math.inf)


class CategoricalDuration(Duration):
    """p_k(d) free, with a Dirichlet prior; a length of probability 0 stays impossible.

    Args:
        probs: (K, D), D = max_duration; zeros under min_duration.
        concentration: α of the prior on every length that is possible; 1 is maximum likelihood.
    """

    def __init__(self, probs: Tensor, concentration: float = 1.0, min_duration: int = 1) -> None:
        super().__init__(len(probs), min_duration, probs.shape[1])
        if concentration < 1:
            raise ValueError(f"concentration={concentration}; under 1 the mode is not inside: at least 1")
        possible = torch.arange(1, self.max_duration + 1) >= min_duration
        self.logits = nn.Parameter(log(probs * possible))
        self.concentration = concentration

    def log_prob(self) -> Tensor:
        return log_normalized(self.logits)

    @torch.no_grad()
    def maximize(self, ended: Tensor, censored: Tensor) -> None:
        """With the hazard h(d) = p(d) / S(d), Q = Σ n_d log h(d) + r_d log(1 − h(d)) where r_d counts the stays seen to
        last longer than d: h(d) = n_d / (n_d + r_d)."""
        possible = self.logits > -math.inf
        old = self.log_prob()
        n = torch.where(possible, ended + (self.concentration - 1), 0.0)
        r = nn.functional.pad(tails(n + censored)[:, 1:], (0, 1))
        hazard = torch.where(n + r > 0, n / (n + r), (old - log_tails(old)).exp().nan_to_num())
        final = possible & (tails(possible.to(n)) == 1)  # the longest stay possible ends for certain
        hazard = torch.where(final, 1.0, hazard)
        survive = torch.cat([torch.ones_like(hazard[:, :1]), (1 - hazard[:, :-1])], 1).cumprod(1)
        self.logits.copy_(log(hazard * survive))

    def log_prior(self) -> Tensor:
        return log_dirichlet(self.logits, self.concentration)

    def n_free(self) -> int:
        return n_choices(self.logits)


def tails(x: Tensor) -> Tensor:
    """Σ_{d' ≥ d}: (..., D)."""
    return x.flip(-1).cumsum(-1).flip(-1)


class Parametric(Duration):
    """Families with a few numbers for each state, by name in `parameters`: log-weights of d − min_duration."""

    def theta(self) -> Tensor:
        """(K, P)."""
        return torch.stack(list(self.parameters()), -1)

    @abstractmethod
    def log_weight(self, theta: Tensor, n: Tensor) -> Tensor:
        """The unnormalised log-probability of n = d − min_duration under theta (K, P): (K, n)."""

    def log_prob(self) -> Tensor:
        return self.table(self.theta())

    def table(self, theta: Tensor) -> Tensor:
        return self.from_minimum(self.log_weight(theta, self.beyond(theta)))

    @torch.no_grad()
    def maximize(self, ended: Tensor, censored: Tensor) -> None:
        above = slice(self.min_duration - 1, None)
        n, c = ended[:, above], censored[:, above]  # shorter ones are certain to go on: log S = 0

        def objective(theta: Tensor) -> Tensor:
            log_p = self.table(theta)[:, above]
            return (n * log_p + c * log_tails(log_p)).sum(-1)

        best = newton(self.theta(), objective)
        for parameter, value in zip(self.parameters(), best.unbind(-1), strict=True):
            parameter.copy_(value)

    def n_free(self) -> int:
        return sum(p.numel() for p in self.parameters())


class PoissonDuration(Parametric):
    """Args: rate λ (K,), in steps beyond the minimum."""

    def __init__(self, rate: Tensor, max_duration: int, min_duration: int = 1) -> None:
        super().__init__(len(rate), min_duration, max_duration)
        self.log_rate = nn.Parameter(log(rate))

    def log_weight(self, theta: Tensor, n: Tensor) -> Tensor:
        return theta * n - torch.lgamma(n + 1)


class NegativeBinomialDuration(Parametric):
    """Args: mean m (K,) beyond the minimum, before it is cut off, and size r (K,): p = r / (r + m).

    geometric: r is not learned; with r = 1 and max_duration → ∞ the model is an HMM.
    """

    def __init__(
        self, mean: Tensor, size: Tensor, max_duration: int, min_duration: int = 1, geometric: bool = False
    ) -> None:
        super().__init__(len(mean), min_duration, max_duration)
        self.log_mean = nn.Parameter(log(mean))
        if geometric:
            self.log_size: Tensor
            self.register_buffer("log_size", log(size))
        else:
            self.log_size = nn.Parameter(log(size))

    def log_weight(self, theta: Tensor, n: Tensor) -> Tensor:
        """Γ(n + r) / Γ(r) as r^n Π (1 + i / r), and r (1 − p) as m / (1 + m / r): nothing cancels for large r, where it
        is nearly the Poisson."""
        log_size = theta[:, 1:] if theta.shape[1] == 2 else self.log_size[:, None]
        rising = torch.log1p(n[:-1] * (-log_size).exp()).cumsum(-1)  # i = 0..n − 1
        log_odds = theta[:, :1] - torch.log1p((theta[:, :1] - log_size).exp())
        return nn.functional.pad(rising, (1, 0)) + n * log_odds - torch.lgamma(n + 1)
