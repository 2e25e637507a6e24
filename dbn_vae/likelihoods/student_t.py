"""Student's t entries: Gaussian noise that allows outliers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import StudentT as TorchStudentT

from dbn_vae.likelihoods.base import Likelihood


class StudentT(Likelihood):
    """Real x; location and scale are functions of z, the degrees of freedom one number that is learnt.

    They stay above 1, so that x has a mean.  min_scale: see Gaussian.
    """

    name = "student-t"
    n_parameters = 2

    def __init__(self, min_scale: float = 1e-2, dof: float = 5.0) -> None:
        super().__init__()
        if dof <= 1:
            raise ValueError(f"dof={dof}; it must be above 1, or x has no mean")
        self.min_scale = min_scale
        self.log_dof_above_one = nn.Parameter(torch.tensor(math.log(dof - 1)))

    def forward(self, parameters: Tensor) -> TorchStudentT:
        loc, raw = parameters.chunk(2, -1)
        dof = 1 + self.log_dof_above_one.exp()
        return TorchStudentT(dof.expand_as(loc), loc, F.softplus(raw) + self.min_scale, validate_args=False)

    def check(self, x: Tensor, observed: Tensor) -> None:
        """Every real number can be t."""
