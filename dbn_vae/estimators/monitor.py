"""What EM did: hmmlearn's monitor_, telling the truth about the end."""

import warnings
from dataclasses import dataclass, field

from sklearn.exceptions import ConvergenceWarning

ROUNDING = 1e-8  # of the objective: a loss below this share is none


@dataclass
class ConvergenceMonitor:
    """history[i] is the log-likelihood after i updates; the last belongs to the fitted parameters.

    hmmlearn's history lacks that last value, and its converged is True at the iteration cap as well.
    """

    tol: float
    n_iter: int
    verbose: bool = False
    history: list[float] = field(default_factory=list)
    converged: bool = False

    @property
    def iter(self) -> int:
        """Updates made."""
        return max(len(self.history) - 1, 0)

    @property
    def reason(self) -> str:
        """Why it ended, in words."""
        if self.converged:
            return f"converged: after {self.iter} updates the gain is under tol={self.tol:g}"
        if self.iter >= self.n_iter:
            return f"stopped at n_iter={self.n_iter} updates, {self.gain()}"
        return f"interrupted after {self.iter} updates, {self.gain()}"

    def gain(self) -> str:
        if len(self.history) < 2:
            return "before any gain was seen"
        return f"the last gaining {self.history[-1] - self.history[-2]:.3g}"

    def troubles(self) -> list[str]:
        """What a caller should know of the end; a run without a stopping rule ends as it was asked to."""
        if self.converged or self.n_iter < 1 or self.tol < 0:
            return []
        return [f"it has not converged: {self.reason}, with tol={self.tol:g}; raise n_iter, or tol"]


def fell(before: float, after: float) -> bool:
    """Whether an objective that must not decrease did, beyond rounding."""
    return after < before - ROUNDING * max(1.0, abs(before))


def warn(name: str, troubles: list[str]) -> None:
    """One ConvergenceWarning each."""
    for trouble in troubles:
        warnings.warn(f"{name}: {trouble}", ConvergenceWarning, stacklevel=3)
