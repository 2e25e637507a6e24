"""A chain that inputs drive: multinomial logits on u_t.

    p(s_1 = k | u_1) = softmax_k( b_k + w_k·u_1 ),
    p(s_t = j | s_{t-1} = i, u_t) = softmax_j( b_ij + w_ij·u_t ),

u_t being the input of the step moved to.  The M-step is a weighted multinomial logistic regression for every row, on
the expected moves of every single step; it is concave and climbed by Newton's method.

Source: Bengio and Frasconi (1996), Input-output HMMs for sequence processing.
"""

import torch
from torch import Tensor, nn

from dbn_vae.distributions import log, log_normalized, n_choices
from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.newton import newton


class InputDriven(Transition):
    """Starts as the chain (π, A) under every input: the weights w are 0.

    Args:
        startprob, transmat: (K,) and (K, K) where u = 0; exact zeros are structure and stay zero under every input.
        n_inputs: U.
        precision: of the Gaussian prior on w about 0; 0 is maximum likelihood, which does not exist where the inputs
            tell moves apart without error.
    """

    def __init__(self, startprob: Tensor, transmat: Tensor, n_inputs: int, precision: float = 0.0) -> None:
        super().__init__()
        K = self.n_components = len(startprob)
        self.n_inputs, self.precision = n_inputs, precision
        self.initial_logits = nn.Parameter(log(startprob).clone())
        self.transition_logits = nn.Parameter(log(transmat).clone())
        self.initial_slope = nn.Parameter(startprob.new_zeros(K, n_inputs))
        self.transition_slope = nn.Parameter(transmat.new_zeros(K, K, n_inputs))

    def log_initial(self, inputs: Tensor | None = None) -> Tensor:
        return self.first_under(self.known(inputs)[:, 0])

    def log_transition(self, inputs: Tensor | None = None) -> Tensor:
        return self.moves_under(self.known(inputs)[:, 1:])

    def first_under(self, u: Tensor) -> Tensor:
        """(..., U) to (..., K)."""
        return log_normalized(self.initial_logits + u @ self.initial_slope.T)

    def moves_under(self, u: Tensor) -> Tensor:
        """(..., U) to (..., K, K)."""
        return log_normalized(
            self.transition_logits + torch.einsum("...u,iju->...ij", u, self.transition_slope)
        )

    def known(self, inputs: Tensor | None) -> Tensor:
        """The inputs; raises ValueError where there are none or too few columns."""
        if inputs is None or inputs.shape[-1] != self.n_inputs:
            given = "none are given" if inputs is None else f"{inputs.shape[-1]} are given"
            raise ValueError(f"the transition reads {self.n_inputs} inputs a step, but {given}; set inputs")
        return inputs

    def statistics(
        self, weights: Tensor, inputs: Tensor | None, log_z: Tensor, gamma: Tensor, xi: Tensor
    ) -> tuple[Tensor, ...]:
        """Expected counts sequence by sequence (B, K) and move by move (M, K, K), with their inputs (B, U), (M, U)."""
        u = self.known(inputs)
        moves = (weights[:, None, None, None] * xi).flatten(0, 1)
        made = moves.sum((1, 2)) > 0  # not those of padding
        return weights[:, None] * gamma[:, 0], moves[made], u[:, 0], u[:, 1:].flatten(0, 1)[made]

    def add(self, one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(one, other, strict=True))

    @torch.no_grad()
    def maximize(
        self, first: Tensor, pairs: Tensor, first_inputs: Tensor | None = None, inputs: Tensor | None = None
    ) -> None:
        """Raise the expected log-likelihood from counts (B, K) under (B, U) and (M, K, K) under (M, U).

        Counts (K,) and (K, K) alone are taken as made at u = 0.
        """
        if first_inputs is None or inputs is None:
            first, pairs = first[None], pairs[None]
            first_inputs = inputs = first.new_zeros(1, self.n_inputs)

        if "initial" not in self.frozen:
            raise_logits(
                self.initial_logits[None],
                self.initial_slope[None],
                first[:, None],
                first_inputs,
                self.precision,
            )
        if "transition" not in self.frozen:
            raise_logits(self.transition_logits, self.transition_slope, pairs, inputs, self.precision)

    def log_prior(self) -> Tensor:
        squares = self.initial_slope.square().sum() + self.transition_slope.square().sum()
        return -0.5 * self.precision * squares

    def n_free(self) -> int:
        """An intercept and U weights for every choice."""
        start = 0 if "initial" in self.frozen else n_choices(self.initial_logits)
        moves = 0 if "transition" in self.frozen else n_choices(self.transition_logits)
        return (1 + self.n_inputs) * (start + moves)


def raise_logits(intercept: Tensor, slope: Tensor, counts: Tensor, inputs: Tensor, precision: float) -> None:
    """Weighted multinomial logistic regressions of R rows, in place: Σ_n counts_n(j) log p(j | u_n) − ½ precision |w|².

    intercept: (R, K), slope: (R, K, U), counts: (n, R, K), inputs: (n, U).
    """
    R, K, U = slope.shape
    design = torch.cat([torch.ones_like(inputs[:, :1]), inputs], 1)  # (n, 1 + U)
    table = torch.cat([intercept[..., None], slope], -1)  # (R, K, 1 + U)
    possible = (intercept > -torch.inf)[..., None]
    counts = counts * possible.squeeze(-1)
    total = counts.sum(-1).T  # (R, n)
    cross = torch.einsum("nrk,nu->rku", counts, design)

    def objective(theta: Tensor) -> Tensor:
        weight = torch.where(possible, theta.view(R, K, 1 + U), 0.0)
        logits = torch.where(possible, weight @ design.T, -torch.inf)  # (R, K, n)
        likelihood = (weight * cross).sum((1, 2)) - (total * logits.logsumexp(1)).sum(1)
        return likelihood - 0.5 * precision * theta.view(R, K, 1 + U)[..., 1:].square().sum((1, 2))

    with torch.no_grad():
        best = newton(table.flatten(1), objective).view(R, K, 1 + U)
        intercept.copy_(best[..., 0])
        slope.copy_(best[..., 1:])
