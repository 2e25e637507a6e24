"""Hidden semi-Markov models behind the verbs of the HMMs: any emission, and any of four kinds of stay."""

from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dbn_vae.emissions.base import Emission
from dbn_vae.estimators.arguments import require_choice, require_number, require_whole, require_width
from dbn_vae.estimators.classical import as_array
from dbn_vae.estimators.devices import place
from dbn_vae.estimators.forecasting import PredictiveVerbs
from dbn_vae.estimators.modules import ModuleHMM
from dbn_vae.models.hmm import HMM
from dbn_vae.models.hsmm import HSMM as Module
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import em
from dbn_vae.training.initialise import cluster, count_stays, randomly, start
from dbn_vae.transitions.durations import (
    CategoricalDuration,
    Duration,
    NegativeBinomialDuration,
    PoissonDuration,
)
from dbn_vae.transitions.semi_markov import SemiMarkov
from dbn_vae.transitions.stationary import Stationary

FAMILIES = ("categorical", "poisson", "negative_binomial", "geometric")
WARM_UP = 10  # updates of the HMM from whose states the durations start


def duration_named(name: str, mean: Tensor, shortest: int, longest: int, prior: float) -> Duration:
    """K distributions of a stay that begin at these means (K,) beyond the shortest; a free one begins uniform."""
    require_choice(FAMILIES, durations=name)
    one = torch.ones_like(mean)
    if name == "categorical":
        return CategoricalDuration(one[:, None].expand(-1, longest), prior, shortest)
    if name == "poisson":
        return PoissonDuration(mean, longest, shortest)
    return NegativeBinomialDuration(mean, one, longest, shortest, geometric=name == "geometric")


@dataclass(eq=False, repr=False)
class HSMM(ModuleHMM, PredictiveVerbs):
    """A state lasts as long as its own distribution says, not geometrically; fitted by EM.

    The first stay begins with the sequence; the last one may go on after its end, and counts as such.

    Args:
        emission: a family of dbn_vae.emissions over K ≥ 2 states; its values are replaced at the start of learning, its
            priors and floors are kept.
        durations: "categorical", every length its own probability; "poisson" and "negative_binomial", shifted to
            min_duration and cut off at max_duration; "geometric", the stays of an HMM.
        max_duration, min_duration: no stay is longer, or shorter but for the last one.  Time grows with max_duration.
        duration_prior: Dirichlet concentration of a categorical duration, at least 1; over 1 no length becomes
            impossible because the data lack it.
        startprob_prior, transmat_prior: Dirichlet concentrations.
        n_iter, tol: at most so many updates; stop when the log-likelihood gains less than tol.
        n_init: starts, of which the best is kept.
        device: "cpu", "cuda", or "auto".

    Attributes: model_, the fitted models.HSMM; startprob_ (K,); transmat_ (K, K), from stay to stay, its diagonal 0;
        durations_ (K, max_duration), the probabilities of 1, 2, … steps; mean_durations_ (K,); emission_; monitor_,
        restart_scores_.

    >>> import numpy as np, torch
    >>> from dbn_vae.emissions import DiagonalGaussian
    >>> X = np.tile(np.r_[np.zeros(4), 9 + np.zeros(7)], 9)[:, None]
    >>> emission = DiagonalGaussian(torch.zeros(2, 1).double(), torch.ones(2, 1).double(), floor=torch.tensor([0.1]))
    >>> model = HSMM(emission, "poisson", max_duration=20, random_state=0).fit(X)
    >>> sorted(model.mean_durations_.round(0).tolist())
    [4.0, 7.0]
    """

    emission: Any
    durations: str = "categorical"
    _: KW_ONLY
    max_duration: int = 50
    min_duration: int = 1
    duration_prior: float = 1.1
    startprob_prior: float = 1.0
    transmat_prior: float = 1.0
    algorithm: str = "viterbi"
    random_state: Any = None
    n_iter: int = 50
    tol: float = 1e-2
    verbose: bool = False
    n_init: int = 2
    device: str = "cpu"

    model_: Module = field(init=False)

    # -- learning

    def require_arguments(self) -> None:
        if not isinstance(self.emission, Emission):
            raise TypeError(
                f"emission is a {type(self.emission).__name__}; it is a family of dbn_vae.emissions, such as "
                "DiagonalGaussian(mean, variance)"
            )
        require_whole(2, n_components=self.n_components)
        require_whole(1, min_duration=self.min_duration, max_duration=self.max_duration)
        require_number(0, duration_prior=self.duration_prior)
        require_number(0, startprob_prior=self.startprob_prior, transmat_prior=self.transmat_prior)
        require_choice(FAMILIES, durations=self.durations)
        super().require_arguments()

    def started(self, data: Sequences, generator: torch.Generator, restart: int) -> Module:
        """An HMM for a few updates, then the stays of its most probable paths as counts."""
        K = self.n_components
        emission = deepcopy(self.emission)
        place(emission, torch.device("cpu"), self.dtype)
        require_width(data, emission.n_features, type(self).__name__)
        emission.check(data.x, data.observed)
        self.require_short_stays(data)
        uniform = torch.full((K,), 1 / K, dtype=self.dtype)
        hmm = HMM(Stationary(uniform, uniform.expand(K, K).clone()), emission)
        responsibilities = (cluster if self.clustered and restart % 2 == 0 else randomly)(data, K, generator)
        start(hmm, data, self.named(hmm, data, responsibilities, restart), stay=0.9)
        for i, _ in enumerate(em(hmm, data)):
            if i == WARM_UP:
                break
        first, moves, ended, censored = count_stays(hmm, data, self.min_duration, self.max_duration)
        model = Module(self.transition(ended, censored), emission)
        model.transition.maximize(first + 1 / K, moves + 1 / K, ended + 1 / self.max_duration, censored)
        self.n_free_ = model.transition.n_free() + emission.n_free()  # zeros that EM arrives at are estimates
        return model

    def require_short_stays(self, data: Sequences) -> None:
        """Raise ValueError where a state is known to last longer than any stay can."""
        if data.labels is None or data.labels.is_floating_point():
            return
        for sequence in data.labels.split(data.lengths.tolist()):
            longest = max((len(list(run)) for k, run in groupby(sequence.tolist()) if k >= 0), default=0)
            if longest > self.max_duration:
                raise ValueError(
                    f"labels hold one state for {longest} steps, but max_duration={self.max_duration}; raise it"
                )

    def transition(self, ended: Tensor | None = None, censored: Tensor | None = None) -> SemiMarkov:
        """Moves to every other state, and durations about the mean of the stays given."""
        K = self.n_components
        apart = (1 - torch.eye(K, dtype=self.dtype)) / (K - 1)
        uniform = torch.full((K,), 1 / K, dtype=self.dtype)
        moves = Stationary(uniform, apart, self.startprob_prior, self.transmat_prior)
        mean = torch.ones(K, dtype=self.dtype)
        if ended is not None and censored is not None:
            counts = ended + censored
            steps = torch.arange(1, self.max_duration + 1, dtype=self.dtype)
            mean = ((counts @ steps + 1) / (counts.sum(1) + 1) - self.min_duration).clamp_min(0.5)
        duration = duration_named(
            self.durations, mean, self.min_duration, self.max_duration, self.duration_prior
        )
        return SemiMarkov(moves, duration)

    # -- asking

    @property
    def startprob_(self) -> np.ndarray:
        """π: (K,)."""
        return as_array(self.model_.transition.log_initial().exp())

    @property
    def transmat_(self) -> np.ndarray:
        """A from stay to stay: (K, K)."""
        return as_array(self.model_.transition.log_transition().exp())

    @property
    def durations_(self) -> np.ndarray:
        """P(a stay in k lasts d), d = 1..max_duration: (K, max_duration)."""
        return as_array(self.model_.transition.durations.log_prob().exp())

    @property
    def mean_durations_(self) -> np.ndarray:
        """Mean stay in steps: (K,)."""
        return as_array(self.model_.transition.durations.mean())

    @property
    def emission_(self) -> Emission:
        return self.model_.emission
