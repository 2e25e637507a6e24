"""How hidden state moves: p(s_t | s_{t-1}) for discrete states, p(z_t | z_{t-1}) for continuous ones."""

from dbn_vae.transitions.base import Transition
from dbn_vae.transitions.gated import Gated
from dbn_vae.transitions.linear import Linear
from dbn_vae.transitions.stationary import Stationary
from dbn_vae.transitions.sticky import sticky

__all__ = ["Gated", "Linear", "Stationary", "Transition", "sticky"]
