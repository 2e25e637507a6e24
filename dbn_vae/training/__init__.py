"""Learning: EM, the gradient loop, starts, checkpoints."""

from dbn_vae.training.em import EMStep, em
from dbn_vae.training.gibbs import GibbsDraw, gibbs
from dbn_vae.training.initialise import adopt, adopt_core, cluster, randomly, start
from dbn_vae.training.online import OnlineStep, decay, online
from dbn_vae.training.sgvb import AscentStep, Place, ascend, estimator_a, estimator_b, ramp

__all__ = [
    "AscentStep",
    "EMStep",
    "GibbsDraw",
    "OnlineStep",
    "Place",
    "adopt",
    "adopt_core",
    "ascend",
    "cluster",
    "decay",
    "em",
    "estimator_a",
    "estimator_b",
    "gibbs",
    "online",
    "ramp",
    "randomly",
    "start",
]
