"""Draws of a classical HMM's parameters from their posterior, as arrays under the names of the fitted attributes."""

import copy
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from dbn_vae.sequences import Sequences
from dbn_vae.training.gibbs import gibbs, matched

if TYPE_CHECKING:
    from dbn_vae.estimators.classical import ClassicalHMM


def posterior_draws(
    estimator: "ClassicalHMM", data: Sequences, n_draws: int, burn_in: int, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """n_draws after burn_in of the Gibbs sampler that starts at the fitted attributes; see sample_posterior."""
    model = estimator.build()
    copy.copy(estimator).prepare(model, data)  # which notes things in the estimator that only a fit should
    reference = torch.as_tensor(np.asarray(estimator.decode(data, algorithm="viterbi")[1]))
    names = [name.lstrip("_") for name in estimator.learnt()]
    found: dict[str, list[np.ndarray]] = {name: [] for name in [*names, "log_likelihood"]}
    for draw in islice(gibbs(model, data, generator), burn_in + 1, burn_in + 1 + n_draws):
        draw_of = copy.copy(estimator)
        draw_of.init_params = ""  # nothing was started afresh: what params leaves out stays bit by bit
        draw_of.keep(model)
        draw_of.reorder(matched(draw.states, reference, estimator.n_components).numpy())
        for name in names:
            found[name].append(np.array(getattr(draw_of, name)))
        found["log_likelihood"].append(np.array(draw.log_likelihood))
    return {name: np.stack(values) for name, values in found.items()}
