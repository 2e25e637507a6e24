"""Loading what `estimator.save` wrote: one verified file, no pickle."""

from pathlib import Path

import numpy as np

import dbn_vae.estimators
from dbn_vae import storage
from dbn_vae.estimators.base import FORMAT, SequenceEstimator


def load(path: Path | str) -> SequenceEstimator:
    """The estimator in a file, ready to use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is none of ours, or comes from a later version.
    """
    tensors, facts = storage.load(path)
    if facts.get("format", FORMAT) > FORMAT:
        raise ValueError(f"{path} was written by a later version of dbn_vae; upgrade to read it")
    name = facts.get("estimator")
    if name not in dbn_vae.estimators.__all__ or name == "SequenceEstimator":
        raise ValueError(f"{path} holds no estimator of dbn_vae, but {name!r}")
    estimator: SequenceEstimator = getattr(dbn_vae.estimators, name)(**facts["parameters"])
    estimator.restore(tensors, facts["state"])
    if facts.get("columns") is not None:
        estimator.feature_names_in_ = np.array(facts["columns"], dtype=object)
    return estimator
