"""Binary entries that depend on each other within a frame: notes of a chord, pixels of a stroke.

    p(x | z) = Π_d Bernoulli(x_d; sigmoid(a_d(z) + V_d · relu(b(z) + W x̃)))

with masks on V and W that let entry d see x_1 .. x_{d-1} alone, and x̃ = 2 x − 1.  The decoder supplies a and b.
Sources: Germain et al. (2015), MADE; Boulanger-Lewandowski et al. (2012) for such an output at every step.

Missing entries: x̃ is 0 there, and their factors are left out.  What remains is a density of the entries that were
observed, given which ones were, and trained as such: it sums to 1 over them, but it is not the marginal of the density
of whole frames, which has no closed form.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from dbn_vae.distributions import at, sample
from dbn_vae.likelihoods.base import Likelihood
from dbn_vae.likelihoods.bernoulli import Bernoulli

N_PATHS = 16  # draws of the entries before it, over which the mean of an entry is taken


class MADE(Likelihood):
    """x ∈ {0, 1}, entries in the order of the columns.

    Args:
        n_observed: D.
        n_hidden: width of the layer between entries.  A unit reads the entries up to one of D − 1 places, so that
            with few of them the first entries are read by one or two.
    """

    name = "made"

    def __init__(self, n_observed: int, n_hidden: int = 512) -> None:
        super().__init__()
        self.read, self.write = (
            nn.Linear(n_observed, n_hidden, bias=False),
            nn.Linear(n_hidden, n_observed, bias=False),
        )
        entry = 1 + torch.arange(n_observed)
        degree = 1 + torch.arange(n_hidden) % max(n_observed - 1, 1)  # how many entries a hidden unit sees
        self.register_buffer("readable", (entry <= degree[:, None]).float(), persistent=False)
        self.register_buffer("writable", (entry[:, None] > degree).float(), persistent=False)

    def n_outputs(self, D: int) -> int:
        return D + self.read.out_features

    def forward(self, parameters: Tensor) -> "AutoregressiveBernoulli":
        D = self.read.in_features
        W = self.read.weight * self.get_buffer("readable")
        V = self.write.weight * self.get_buffer("writable")
        return AutoregressiveBernoulli(parameters[..., :D], parameters[..., D:], W, V)

    def log_prob(self, distribution: Distribution, x: Tensor, observed: Tensor) -> Tensor:
        assert isinstance(distribution, AutoregressiveBernoulli)
        signs = (2 * x - 1) * observed
        return (F.logsigmoid(signs * distribution.conditional_logits(signs)) * observed).sum(-1)

    def mean(self, distribution: Distribution) -> Tensor:
        """E x_d, estimated: its probability given the entries before it, over the same few draws of those."""
        assert isinstance(distribution, AutoregressiveBernoulli)
        always = torch.Generator().manual_seed(0)
        D = distribution.logits.shape[-1]
        levels = torch.rand(N_PATHS, D, generator=always, dtype=distribution.logits.dtype)
        levels = levels.to(distribution.logits.device).view(
            N_PATHS, *[1] * (distribution.logits.dim() - 1), D
        )
        draws = distribution.below(levels)  # the same levels for every frame: no frame depends on its company
        return torch.sigmoid(distribution.conditional_logits(2 * draws - 1)).mean(0)

    def check(self, x: Tensor, observed: Tensor) -> None:
        Bernoulli().check(x, observed)


class AutoregressiveBernoulli(Distribution):
    """Entry by entry, in order.

    Args:
        logits: a, (..., D).
        hidden: b, (..., H).
        W, V: (H, D) and (D, H), masked.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own name and type)

    def __init__(self, logits: Tensor, hidden: Tensor, W: Tensor, V: Tensor) -> None:
        super().__init__(logits.shape, validate_args=False)
        self.logits, self.hidden, self.W, self.V = logits, hidden, W, V

    def conditional_logits(self, signs: Tensor) -> Tensor:
        """Of every x_d given the entries before it, as signs ±1, or 0 where unknown: (..., D)."""
        return self.logits + F.linear(F.relu(self.hidden + F.linear(signs, self.W)), self.V)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x_d | x_1 .. x_{d-1}): (..., D), whose sum is log p(x)."""
        signs = 2 * value - 1
        return F.logsigmoid(signs * self.conditional_logits(signs))

    def below(self, levels: Tensor) -> Tensor:
        """The frame whose x_d is 1 where its probability given the entries before it exceeds levels (..., D)."""
        hidden, entries = self.hidden, []
        for d, (w, v) in enumerate(zip(self.W.T, self.V, strict=True)):
            p = torch.sigmoid(self.logits[..., d] + F.relu(hidden) @ v)
            entries.append((levels[..., d] < p).to(p.dtype))
            hidden = hidden + (2 * entries[-1] - 1)[..., None] * w
        return torch.stack(entries, -1)


@sample.register
def _(distribution: AutoregressiveBernoulli, generator: torch.Generator | None) -> Tensor:
    like = at(distribution.logits, generator)
    levels = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return distribution.below(levels.to(distribution.logits.device))
