"""The family: each model fills in what is its own, see base.py."""

from dbn_vae.models.base import LatentModel, Model, StateModel
from dbn_vae.models.clip import ClipVAEHMM
from dbn_vae.models.dmm import DMM
from dbn_vae.models.hmm import HMM
from dbn_vae.models.hsmm import HSMM
from dbn_vae.models.mean_field_vae_hmm import MeanFieldVAEHMM, SampledVAEHMM
from dbn_vae.models.recognition import Filtering, PerStep, Product, Recognition
from dbn_vae.models.smoothing import Smoothing
from dbn_vae.models.structured import STL, STLR, STR
from dbn_vae.models.switching_dmm import SwitchingDMM
from dbn_vae.models.vae import VAE
from dbn_vae.models.vae_hmm import VAEHMM

__all__ = [
    "DMM",
    "HMM",
    "HSMM",
    "STL",
    "STLR",
    "STR",
    "VAE",
    "VAEHMM",
    "ClipVAEHMM",
    "Filtering",
    "LatentModel",
    "MeanFieldVAEHMM",
    "Model",
    "PerStep",
    "Product",
    "Recognition",
    "SampledVAEHMM",
    "Smoothing",
    "StateModel",
    "SwitchingDMM",
]
