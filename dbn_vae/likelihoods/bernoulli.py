"""Bernoulli entries, from logits (Kingma and Welling 2014, eq. 11)."""

from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli

from dbn_vae.likelihoods.base import Likelihood, require


class Bernoulli(Likelihood):
    """x ∈ {0, 1}.

    With grey=True values between 0 and 1 are accepted.  Their cross-entropy is then not the
    log-likelihood of any model of grey levels (its floor is not 0), and is_density says so.
    """

    name = "bernoulli"

    def __init__(self, grey: bool = False) -> None:
        super().__init__()
        self.grey = grey
        self.is_density = not grey

    def forward(self, parameters: Tensor) -> TorchBernoulli:
        return TorchBernoulli(logits=parameters, validate_args=False)

    def check(self, x: Tensor, observed: Tensor) -> None:
        if self.grey:
            inside = (x >= 0) & (x <= 1)
            require(inside | ~observed, x, "grey-level Bernoulli", "scale X to [0, 1]")
        else:
            binary = (x == 0) | (x == 1)
            remedy = "binarise X, or take likelihood='continuous-bernoulli' for values between 0 and 1"
            require(binary | ~observed, x, "Bernoulli", remedy)
