"""Names of states: a likelihood knows none, so two fits may call the same state by different numbers."""

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from scipy.optimize import linear_sum_assignment

from dbn_vae.estimators.base import StateEstimator


class NamedStates(StateEstimator):
    """Fitted attributes with a row for every state, which may be put in another order."""

    letters: ClassVar[dict[str, str]]  # parameter letter to fitted attribute, s and t left out
    transmat_: np.ndarray

    @abstractmethod
    def kept(self) -> list[str]:
        """Names of the fitted arrays."""

    def reorder(self, order: Any) -> Self:
        """Name the states anew, in place: state order[i] becomes state i."""
        self.require_fitted()
        order = np.asarray(order)
        if sorted(order.tolist()) != list(range(self.n_components)):
            raise ValueError(f"order={order.tolist()} must name each of the {self.n_components} states once")
        for name in self.kept():
            value = np.asarray(getattr(self, name))
            if self.per_state(name):
                value = value[order]
            setattr(self, name, value[:, order] if name.startswith("transmat") else value)
        return self

    def per_state(self, name: str) -> bool:
        """Whether the fitted attribute has a row for every state."""
        return True

    def sort_states(self, by: Any = None) -> Self:
        """Name the states in ascending order, in place.

        Args:
            by: K numbers, one a state; "occupancy", the long-run share of time, the commonest state first; without
                it, the emission's parameters (means_, lambdas_, emissionprob_), column after column.
        """
        self.require_fitted()
        if by is None:
            first = np.asarray(getattr(self, next(iter(self.letters.values()))))
            return self.reorder(np.lexsort(first.T[::-1]))
        keys = -self.get_stationary_distribution() if isinstance(by, str) and by == "occupancy" else by
        keys = np.asarray(keys)
        if keys.shape != (self.n_components,) or keys.dtype.kind not in "iuf":
            raise ValueError(f"by={by!r}; it is 'occupancy' or {self.n_components} numbers, one a state")
        return self.reorder(np.argsort(keys, kind="stable"))

    def align_to(self, other: Any, X: Any, lengths: Any = None) -> Self:
        """Name the states as another model does, in place.

        Of all namings it takes the one under which both models are expected to agree on most frames of X,
        Σ_t Σ_k p(s_t = k | x) p'(s_t = k | x), by the Hungarian method.  That asks nothing of the two but posteriors,
        so families may differ, and units do not matter.

        Args:
            other: a fitted model with as many states and a predict_proba.
        """

        ours = np.asarray(self.predict_proba(X, lengths))
        theirs = np.asarray(other.predict_proba(X, lengths))
        if theirs.shape != ours.shape:
            raise ValueError(f"other has {theirs.shape[1]} states, this model {self.n_components}")
        _, order = linear_sum_assignment(-(theirs.T @ ours))
        return self.reorder(order)

    def get_stationary_distribution(self) -> np.ndarray:
        """The π with π A = π: (K,)."""
        self.require_fitted()
        return stationary_distribution(self.transmat_)


def stationary_distribution(transmat: Any) -> np.ndarray:
    """The π with π A = π: (K,)."""
    A = np.asarray(transmat)
    K = len(A)
    system = np.vstack([A.T - np.eye(K), np.ones(K)])
    solution, *_ = np.linalg.lstsq(system, np.append(np.zeros(K), 1.0), rcond=None)
    positive = np.clip(solution, 0, None)
    return np.asarray(positive / positive.sum())
