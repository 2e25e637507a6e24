"""Exact inference in discrete chains; knows no model."""

from dbn_vae.inference.backends import using
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.exact import (
    expect,
    filter,
    log_partition,
    path_score,
    sample,
    smooth,
    step,
    viterbi,
)
from dbn_vae.inference.potentials import Potential, Quadratic, Table, Whitened
from dbn_vae.inference.reference import logsumexp

__all__ = [
    "Chain",
    "Expected",
    "Filtered",
    "Path",
    "Posterior",
    "Potential",
    "Quadratic",
    "Table",
    "Whitened",
    "expect",
    "filter",
    "log_partition",
    "logsumexp",
    "path_score",
    "sample",
    "smooth",
    "step",
    "using",
    "viterbi",
]
