"""The filter of a live stream: one frame in, one belief out, constant time and memory.

    log p(s_t, x_t | x_{1:t-1}) = log p(x_t | s_t) + LSE_j( log p(s_{t-1} = j | x_{1:t-1}) + log A_j· )

Inputs u_t of a frame drive A, p(x_t | s_t) or both; an autoregression reads the frames before, of which the filter
keeps as many as that needs.
The same recursion as `filter`, so that a stream knows after t frames what filter says of them; in logarithms, so that
states thousands of nats apart lose nothing, and in NumPy, whose calls on a handful of numbers are the shorter ones.
"""

import math
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from dbn_vae.arrays import numbers
from dbn_vae.emissions.frame import Inputs, OnlineLogProb, Past
from dbn_vae.emissions.predictive import plain
from dbn_vae.estimators.arguments import require_whole
from dbn_vae.transitions.base import Transition


class Steps(NamedTuple):
    """What a filter asks of a model at a frame; u is the inputs of that frame."""

    tables: Callable[[Inputs], tuple[np.ndarray, np.ndarray]]  # of u: log π (M,), log A into the frame (M, M)
    log_prob: OnlineLogProb  # log p(x_t | s_t = k), of x_t, u_t and `order` frames before: (K,)
    frame: tuple[int, ...]  # the shape of a frame
    n_inputs: int = 0  # U
    driven: bool = False  # the tables depend on u
    order: int = 0
    n_ages: int = 1  # M / K; where it is not 1, the tables are of states and ages, those of state k together
    exact: bool = True  # log_prob is the model's own, not that of a chain standing for a deep one


def tables_under(
    tables: Callable[[Tensor | None], tuple[Tensor, Tensor]], transition: Transition
) -> Callable[[Inputs], tuple[np.ndarray, np.ndarray]]:
    """A model's tables as Steps has them, computed once where no inputs drive its transition."""
    if not transition.n_inputs:
        first, moves = (plain(table) for table in tables(None))
        return lambda u: (first, moves)
    like = next(transition.parameters())

    def under(u: Inputs) -> tuple[np.ndarray, np.ndarray]:
        assert u is not None
        with torch.no_grad():
            log_initial, log_transition = tables(torch.as_tensor(u).to(like).expand(1, 2, -1))
        return plain(log_initial[0]), plain(log_transition[0, 0])

    return under


class StateFilter:
    """p(s_t | x_{1:t}) of the frames seen so far, which never looks ahead.

    Attributes: n_frames, how many frames were seen.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._belief: np.ndarray | None = None  # log p(s_t | x_{1:t}): (M,)
        self._past: Past = ()
        self._log_z = 0.0
        self.n_frames = 0

    def update(self, x: Any, *, inputs: Any = None) -> np.ndarray:
        """Take in a frame (D,) or (C, H, W), NaN where missing, and return p(s_t | x_{1:t}): (K,).

        Args:
            inputs: (U,) those of the frame, where the model reads some.

        Raises ValueError for a frame of another width or outside the support, for inputs that do not fit, and for a
        frame that is impossible after those before it; the filter then stays as it was.
        """
        log_prob, shape, order, n_ages = (
            getattr(self._steps, name) for name in ("log_prob", "frame", "order", "n_ages")
        )
        frame = np.asarray(x, dtype=np.float64)
        if frame.shape != shape:
            raise ValueError(f"x has shape {frame.shape}; a frame of this model has shape {shape}")
        u = self._checked(inputs)
        log_p = log_prob(frame, u, self._past)
        joint = self._log_predicted(u) + (log_p if n_ages == 1 else log_p.repeat(n_ages))
        c = float(np.logaddexp.reduce(joint))
        if not -math.inf < c < math.inf:
            raise ValueError(
                f"x={frame.tolist()} is impossible after the {self.n_frames} frames before it (log-probability "
                f"{c}): it is infinite, or a probability of 0 rules it out. Use NaN for what is missing."
            )
        self._belief = joint - c
        self._log_z += c
        self.n_frames += 1
        if order:
            self._past = (*self._past, (frame, u))[-order:]
        return self.probs

    def _checked(self, inputs: Any, h: int | None = None) -> Inputs:
        """The inputs of a frame (U,), or of the next h (h, U); None where none are given and none are read.

        Raises ValueError where they do not fit.
        """
        U = self._steps.n_inputs
        if inputs is None and U == 0:
            return None
        if U == 0:
            raise ValueError("inputs are given, but this model reads none: leave them out")
        u, shape = None if inputs is None else numbers("inputs", inputs), (U,) if h is None else (h, U)
        if u is None or u.shape != shape:
            given = "are not given" if u is None else f"have shape {u.shape}"
            whose = "the frame" if h is None else f"the next {h} frames"
            raise ValueError(
                f"inputs {given}, but this model reads {U} a frame: give those of {whose}, of shape {shape}"
            )
        if not np.isfinite(u).all():
            raise ValueError("inputs hold NaN or infinite values; covariates must be known throughout")
        return u

    def _log_predicted(self, u: Inputs) -> np.ndarray:
        """log p(s_{t+1} | x_{1:t}) under the inputs of t + 1: (M,)."""
        log_initial, log_transition = self._steps.tables(u)
        if self._belief is None:
            return log_initial
        return np.logaddexp.reduce(self._belief[:, None] + log_transition)

    @property
    def probs(self) -> np.ndarray:
        """p(s_t | x_{1:t}): (K,); before the first frame, the distribution of its state.

        Raises ValueError before the first frame where its inputs drive that.
        """
        if self._belief is None and self._steps.driven:
            raise ValueError(
                "no frame was seen, and inputs drive the first state: use predict(1, inputs=...)"
            )
        return self._of_states(np.exp(self._log_predicted(None) if self._belief is None else self._belief))

    def _of_states(self, probs: np.ndarray) -> np.ndarray:
        """Ages summed out: (M,) to (K,)."""
        n_ages = self._steps.n_ages
        return probs if n_ages == 1 else probs.reshape(-1, n_ages).sum(1)

    @property
    def log_likelihood(self) -> float:
        """log p(x_{1:t}); 0 before the first frame.  Raises ValueError for deep models, whose p(x) is not known."""
        if not self._steps.exact:
            raise ValueError("log_likelihood: p(x) of a deep model is not known; score and evaluate bound it")
        return self._log_z

    def predict(self, h: int = 1, *, inputs: Any = None) -> np.ndarray:
        """p(s_{t+h} | x_{1:t}), h ≥ 1 steps ahead: (K,).

        Args:
            inputs: (h, U) those of the h frames to come, where they drive the states.
        """
        require_whole(1, h=h)
        if inputs is not None or self._steps.driven:
            inputs = self._checked(inputs, h)
        each = list(inputs) if self._steps.driven else [None]
        log_initial, log_transition = self._steps.tables(each[0])
        probs = np.exp(log_initial if self._belief is None else self._belief)
        if not self._steps.driven:
            later = h - 1 if self._belief is None else h
            return self._of_states(probs @ np.linalg.matrix_power(np.exp(log_transition), later))
        for u in each[1:] if self._belief is None else each:
            probs = probs @ np.exp(self._steps.tables(u)[1])
        return self._of_states(probs)

    def copy(self) -> Self:
        """A filter that goes on by itself from here."""
        return copy(self)
