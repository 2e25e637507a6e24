"""The filter of a live stream: one frame in, one belief out, constant time and memory.

    log p(s_t, x_t | x_{1:t-1}) = log p(x_t | s_t) + LSE_j( log p(s_{t-1} = j | x_{1:t-1}) + log A_j· )

The same recursion as `filter`, so that a stream knows after t frames what filter says of them; in logarithms, so that
states thousands of nats apart lose nothing, and in NumPy, whose calls on a handful of numbers are the shorter ones.
"""

import math
from copy import copy
from typing import Any, Self

import numpy as np

from dbn_vae.emissions.frame import FrameLogProb


def require_whole(minimum: int, **values: Any) -> None:
    """Raise ValueError naming the first value that is no whole number from the minimum."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or value < minimum:
            raise ValueError(f"{name}={value!r}; it must be a whole number from {minimum}")


class StateFilter:
    """p(s_t | x_{1:t}) of the frames seen so far, which never looks ahead.

    Args:
        log_initial: (M,).
        log_transition: (M, M).
        log_prob: log p(x | s = k) of a frame, NaN where missing: (K,).
        frame: the shape of a frame.
        exact: log_prob is the model's own, not that of a chain standing for a deep one.
        n_ages: M / K; where it is not 1, the tables are of states and ages, those of state k together.

    Attributes: n_frames, how many frames were seen.
    """

    def __init__(
        self,
        log_initial: np.ndarray,
        log_transition: np.ndarray,
        log_prob: FrameLogProb,
        frame: tuple[int, ...],
        exact: bool = True,
        n_ages: int = 1,
    ) -> None:
        self._belief, self._log_A = log_initial, log_transition
        self._log_prob, self._shape, self._exact, self._n_ages = log_prob, frame, exact, n_ages
        self._log_z = 0.0
        self.n_frames = 0

    def update(self, x: Any) -> np.ndarray:
        """Take in a frame (D,) or (C, H, W), NaN where missing, and return p(s_t | x_{1:t}): (K,).

        Raises ValueError for a frame of another width or outside the support, and for one that is impossible after
        those before it; the filter then stays as it was.
        """
        frame = np.asarray(x, dtype=np.float64)
        if frame.shape != self._shape:
            raise ValueError(f"x has shape {frame.shape}; a frame of this model has shape {self._shape}")
        log_p = self._log_prob(frame)
        joint = self._log_predicted() + (log_p if self._n_ages == 1 else log_p.repeat(self._n_ages))
        c = float(np.logaddexp.reduce(joint))
        if not -math.inf < c < math.inf:
            raise ValueError(
                f"x={frame.tolist()} is impossible after the {self.n_frames} frames before it (log-probability "
                f"{c}): it is infinite, or a probability of 0 rules it out. Use NaN for what is missing."
            )
        self._belief = joint - c
        self._log_z += c
        self.n_frames += 1
        return self.probs

    def _log_predicted(self) -> np.ndarray:
        """log p(s_{t+1} | x_{1:t}): (K,)."""
        if self.n_frames == 0:
            return self._belief
        return np.logaddexp.reduce(self._belief[:, None] + self._log_A)

    @property
    def probs(self) -> np.ndarray:
        """p(s_t | x_{1:t}): (K,); before the first frame, the distribution of its state."""
        return self._of_states(np.exp(self._belief))

    def _of_states(self, probs: np.ndarray) -> np.ndarray:
        """Ages summed out: (M,) to (K,)."""
        return probs if self._n_ages == 1 else probs.reshape(-1, self._n_ages).sum(1)

    @property
    def log_likelihood(self) -> float:
        """log p(x_{1:t}); 0 before the first frame.  Raises ValueError for deep models, whose p(x) is not known."""
        if not self._exact:
            raise ValueError("log_likelihood: p(x) of a deep model is not known; score and evaluate bound it")
        return self._log_z

    def predict(self, h: int = 1) -> np.ndarray:
        """p(s_{t+h} | x_{1:t}), h ≥ 1 steps ahead: (K,)."""
        require_whole(1, h=h)
        later = h if self.n_frames else h - 1
        return self._of_states(np.exp(self._belief) @ np.linalg.matrix_power(np.exp(self._log_A), later))

    def copy(self) -> Self:
        """A filter that goes on by itself from here."""
        return copy(self)
