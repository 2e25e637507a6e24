"""Exact inference in chains whose states last as long as a distribution says; the verbs are those of a chain."""

from dbn_vae.inference.durations.decoding import (
    belief,
    entropy,
    fixed_lag,
    hybrid,
    k_best,
    leave_one_out,
    predicted,
    two_slice,
    unrolled,
)
from dbn_vae.inference.durations.recursion import (
    Stays,
    StaysPosterior,
    filter,
    log_partition,
    path_score,
    sample,
    smooth,
    viterbi,
)

__all__ = [
    "Stays",
    "StaysPosterior",
    "belief",
    "entropy",
    "filter",
    "fixed_lag",
    "hybrid",
    "k_best",
    "leave_one_out",
    "log_partition",
    "path_score",
    "predicted",
    "sample",
    "smooth",
    "two_slice",
    "unrolled",
    "viterbi",
]
