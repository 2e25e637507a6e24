"""p(z_t | z_{t-1}) of the deep Markov model: a gate between a linear move and a learned proposal.

    g = sigmoid(MLP z),   mean = (1 − g) ∘ (W z + b) + g ∘ MLP z,   σ² = softplus(W_σ relu(proposal) + b_σ) + 1e-4

Where inputs drive it, z stands for (z_{t-1}, u_t), u_t being the input of the step moved to.

Source: Krishnan, Shalit and Sontag (2017), Structured inference networks for nonlinear state space models, eq. 6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from dbn_vae.distributions import Conditional, normal
from dbn_vae.nn import MLP


class Gated(Conditional):
    """Starts near the linear move with W = I, b = 0, the gate leaning towards it."""

    def __init__(self, n_latent: int, n_hidden: int = 32, n_inputs: int = 0) -> None:
        super().__init__()
        n_read = n_latent + n_inputs
        self.gate = MLP(n_read, [n_hidden], n_latent, nn.ReLU)
        self.proposal = MLP(n_read, [n_hidden], n_latent, nn.ReLU)
        self.linear = nn.Linear(n_read, n_latent)
        self.raw_variance = nn.Linear(n_latent, n_latent)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(n_latent, n_read))
            self.linear.bias.zero_()

    def forward(self, context: Tensor) -> Normal:
        gate = torch.sigmoid(self.gate(context))
        proposal = self.proposal(context)
        mean = (1 - gate) * self.linear(context) + gate * proposal
        variance = F.softplus(self.raw_variance(proposal.relu())) + 1e-4
        return normal(mean, variance.sqrt())
