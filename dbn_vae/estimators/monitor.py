"""What EM did: hmmlearn's monitor_, telling the truth about the end."""

from dataclasses import dataclass, field


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
