"""Measuring: likelihoods and bounds, state paths against labels, models against each other."""

from dbn_vae.evaluation.comparison import compare, hold_out
from dbn_vae.evaluation.forecasting import coverage, crps, log_score, pit, pseudo_residuals
from dbn_vae.evaluation.likelihood import Score, elbo, exact, iwae, smc
from dbn_vae.evaluation.states import compare_states, match_states, matched_accuracy

__all__ = [
    "Score",
    "compare",
    "compare_states",
    "coverage",
    "crps",
    "elbo",
    "exact",
    "hold_out",
    "iwae",
    "log_score",
    "match_states",
    "matched_accuracy",
    "pit",
    "pseudo_residuals",
    "smc",
]
