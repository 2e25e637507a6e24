"""How hidden state moves: p(s_t | s_{t-1}) for discrete states, p(z_t | z_{t-1}) for continuous ones."""

from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.cyclic import cyclic
from dbn_vae.transitions.durations import (
    CategoricalDuration,
    Duration,
    NegativeBinomialDuration,
    PoissonDuration,
)
from dbn_vae.transitions.gated import Gated
from dbn_vae.transitions.input_driven import InputDriven
from dbn_vae.transitions.left_to_right import left_to_right
from dbn_vae.transitions.linear import Linear
from dbn_vae.transitions.partly_fixed import PartlyFixed
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.sticky import sticky
from dbn_vae.transitions.tied import Tied

__all__ = [
    "CategoricalDuration",
    "Duration",
    "Gated",
    "InputDriven",
    "Linear",
    "NegativeBinomialDuration",
    "PartlyFixed",
    "PoissonDuration",
    "SemiMarkov",
    "Stationary",
    "Tied",
    "Transition",
    "cyclic",
    "left_to_right",
    "sticky",
]
