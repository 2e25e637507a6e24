"""Exact inference in discrete chains; knows no model."""

from dbn_vae.inference.backends import using
from dbn_vae.inference.chain import Chain, Expected, Filtered, Path, Posterior
from dbn_vae.inference.decoding import belief, fixed_lag, hybrid, leave_one_out, predicted, two_slice
from dbn_vae.inference.exact import (
    entropy,
    expect,
    filter,
    k_best,
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
    "belief",
    "entropy",
    "expect",
    "filter",
    "fixed_lag",
    "hybrid",
    "k_best",
    "leave_one_out",
    "log_partition",
    "logsumexp",
    "path_score",
    "predicted",
    "sample",
    "smooth",
    "step",
    "two_slice",
    "using",
    "viterbi",
]
