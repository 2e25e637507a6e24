"""Rows or entries of A that share one value.

Entries (i, j) of the same group g are equal, A_ij = θ_g.  Rows that hold the same groups, group g m_g times each, are
one distribution, Σ_g m_g θ_g = 1, and the M-step pools their counts C_g = Σ_{(i, j) in g} (count_ij + α_ij − 1):

    θ_g = C_g / (m_g Σ_h C_h)        (Lagrange: C_g / θ_g = λ m_g)
"""

import torch
from torch import Tensor, nn

from dbn_vae.distributions import dirichlet_mode, log, log_dirichlet, log_normalized, n_choices
from dbn_vae.transitions.stationary import Stationary


class Tied(Stationary):
    """A whose entries are equal within groups; π is learned.

    Args:
        startprob, transmat, startprob_prior, transmat_prior: see Stationary; transmat must respect the groups.
        groups: (K,) whole numbers, where rows of the same number are the same distribution; or (K, K), where entries of
            the same number are equal.

    Raises ValueError where entries of one group differ, or where two rows share a group but do not hold the same groups
    equally often: then the maximum has no closed form.

    >>> step = torch.arange(3)
    >>> circle = (step - step[:, None]) % 3  # a walk on a circle: the move counts, not the place
    >>> Tied(torch.ones(3) / 3, torch.ones(3, 3) / 3, circle).n_free()  # two for π and two for the moves
    4
    """

    def __init__(
        self,
        startprob: Tensor,
        transmat: Tensor,
        groups: Tensor,
        startprob_prior: Tensor | float = 1.0,
        transmat_prior: Tensor | float = 1.0,
    ) -> None:
        K = len(startprob)
        if groups.shape not in ((K,), (K, K)) or groups.is_floating_point():
            raise ValueError(
                f"groups has shape {tuple(groups.shape)} and type {groups.dtype}; it holds whole numbers, ({K},) for "
                f"rows or ({K}, {K}) for entries"
            )
        super().__init__(startprob, transmat, startprob_prior, transmat_prior)
        if groups.dim() == 1:  # rows of the same number are tied column by column
            groups = groups[:, None] * K + torch.arange(K)
        index = groups.flatten().unique(return_inverse=True)[1].view(K, K)
        self.groups: Tensor
        self.register_buffer("groups", index)
        self.n_distributions = distributions(index)
        self.transition_logits = nn.Parameter(log(self.mean(transmat)))
        away = (transmat - self.mean(transmat)[index]).abs()
        if away.max() > 1e-6:
            i, j = divmod(int(away.argmax()), K)
            raise ValueError(
                f"transmat[{i}, {j}]={transmat[i, j]:g} differs from others of its group, whose mean is "
                f"{self.mean(transmat)[index][i, j]:g}; give all entries of a group one value"
            )

    def mean(self, table: Tensor) -> Tensor:
        """The mean of a table (K, K) over every group: (G,)."""
        groups = self.groups.flatten()
        total = table.new_zeros(int(groups.max()) + 1).index_add(0, groups, table.flatten())
        return total / groups.bincount()

    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        return log_normalized(self.transition_logits[self.groups])

    @torch.no_grad()
    def maximize(self, first: Tensor, pairs: Tensor) -> None:
        if "initial" not in self.frozen:
            self.initial_logits.copy_(dirichlet_mode(first, self.startprob_prior, self.initial_logits))
        if "transition" not in self.frozen:
            # C_g over the group's entries, m_g in each of its rows: rows of one distribution normalise alike
            logits = self.transition_logits[self.groups]
            weight = self.mean((pairs + (self.transmat_prior - 1)).clamp_min(0))[self.groups]
            row = dirichlet_mode(weight, 1.0, logits)
            self.transition_logits[self.groups] = row

    def log_prior(self) -> Tensor:
        start = log_dirichlet(self.initial_logits, self.startprob_prior)
        return start + log_dirichlet(self.log_transition(), self.transmat_prior)

    def n_free(self) -> int:
        """A number for every group that is possible, less one for every distinct distribution."""
        start = 0 if "initial" in self.frozen else n_choices(self.initial_logits)
        if "transition" in self.frozen:
            return start
        return start + int((self.transition_logits > -torch.inf).sum()) - self.n_distributions


def distributions(groups: Tensor) -> int:
    """How many different rows the groups (K, K) make; raises ValueError where two rows share some groups alone."""
    rows = [tuple(sorted(row)) for row in groups.tolist()]
    for i, row in enumerate(rows):
        for k, other in enumerate(rows[:i]):
            if row != other and set(row) & set(other):
                raise ValueError(
                    f"rows {k} and {i} of groups share some groups, but do not hold the same ones equally often; give "
                    "one of them groups of its own"
                )
    return len(set(rows))
