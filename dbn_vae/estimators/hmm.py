"""What every estimator of a hidden Markov model shares: EM from several starts, exact scores, samples.

    starts ─► EM, each until its gain is small ─► the best is kept ─► score · decode · sample

How a start is made, and how the fitted model is kept (as arrays, or as a module), is left to those above.
"""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dbn_vae.estimators.arguments import lengths_given, require_number, require_sample_inputs, require_whole
from dbn_vae.estimators.base import StateEstimator
from dbn_vae.estimators.devices import on_host, place, where
from dbn_vae.estimators.monitor import ConvergenceMonitor, fell, warn
from dbn_vae.evaluation.likelihood import Score, exact
from dbn_vae.models.hmm import HMM, require_labels
from dbn_vae.sequences import Sequences
from dbn_vae.training.em import EMStep, em
from dbn_vae.training.initialise import cluster, named_by, randomly, start
from dbn_vae.training.online import Running, decay, has_sums, remembered, require_sums, update


class Stream(NamedTuple):
    """What partial_fit goes on from."""

    model: HMM
    running: Running
    fitted: list[Any]  # the attributes as they were left


class HMMEstimator(StateEstimator):
    """EM behind the verbs."""

    weighs_steps = True
    clustered: ClassVar[bool] = True  # k-means makes sense on these frames

    n_iter: int
    tol: float
    verbose: bool
    n_init: int
    device: str
    n_free_: int

    @abstractmethod
    def started(self, data: Sequences, generator: torch.Generator, restart: int) -> HMM:
        """A model to climb from, its n_free_ counted."""

    @abstractmethod
    def keep(self, model: HMM) -> None:
        """Make the model the fitted one."""

    @abstractmethod
    def fitted(self) -> list[Any]:
        """The attributes that are the fitted model."""

    @abstractmethod
    def state_model(self) -> HMM:
        """The fitted module, where device says."""

    @abstractmethod
    def as_fitted(self, data: Sequences) -> HMM:
        """A module of its own on the CPU with the fitted parameters, and priors, floors and frozen parts as at a fit
        to the data."""

    def attributes(self) -> dict[str, str]:
        """Fitted attributes by what the module calls them, both without underscores at the ends."""
        return {}

    @property
    def n_starts(self) -> int:
        """How many different starts there are."""
        return self.n_init

    # -- learning

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        lengths: Any = None,
        labels: Any = None,
        sample_weight: Any = None,
        inputs: Any = None,
    ) -> Self:
        """Fit by EM, from n_init starts, and keep the best.

        Args:
            X, lengths: data in any form that Sequences.from_any takes; NaN is missing.
            y: not read, or lengths without their name: see lengths_given.
            labels: known states, one a frame, −1 where unknown; or (N, K), soft: numbers proportional to
                p(evidence | s_t = k), a row of NaN where unknown.
            sample_weight: (B,) weight of each sequence; or of each frame, where it is (N,): how many times it counts
                as evidence, Σ_t w_t log p(x_t | s_t).
            inputs: (N, U) covariates, where the model reads them.

        On Ctrl-C the best parameters so far are kept before the interrupt goes on.
        """
        self.require_arguments()
        device = where(self.device)
        data = self.read(X, lengths_given(X, y, lengths), labels=labels, weights=sample_weight, inputs=inputs)
        self.remember_columns(X)
        # once for all starts
        there = data if device.type == "cpu" else data.to(dtype=self.dtype, device=device)
        generator = self.generator()
        self.__dict__.pop("_stream", None)
        best: HMM | None = None
        highest, reached = -np.inf, None
        troubles: list[str] = []
        self.restart_scores_: list[float] = []
        try:
            for restart in range(self.n_starts):
                model = self.started(data, generator, restart)
                if there is not data:
                    place(model, device, self.dtype)
                monitor = ConvergenceMonitor(self.tol, self.n_iter, self.verbose)
                if best is None:
                    best, self.monitor_ = model, monitor
                last, seen = self.climb(model, there, monitor)
                self.restart_scores_.append(monitor.history[-1])
                if last.objective > highest:
                    highest, best, reached, self.monitor_ = last.objective, model, last, monitor
                    troubles = seen + monitor.troubles() + self.troubles(model, last)
        finally:
            if best is not None:
                self.keep(best)
        if best is not None and reached is not None and has_sums(best):
            self._stream = Stream(best, remembered(reached.sums, len(data)), self.fitted())
        warn(type(self).__name__, troubles)
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        lengths: Any = None,
        labels: Any = None,
        sample_weight: Any = None,
        inputs: Any = None,
        step_size: float | None = None,
    ) -> Self:
        """Learn on from more sequences by one update of online EM; the first call is a fit.

        Args:
            X, y, lengths, labels, sample_weight, inputs: as for fit.
            step_size: how far these sequences pull what is remembered, 0 to 1, which forgets all earlier ones;
                (t + 2)^−0.7 at update t unless given.

        Priors, params and the floor of variances are those of the fit.  What is remembered is not saved to files.

        Raises:
            ValueError: the parameters are not those that the last fit or partial_fit left.
            TypeError: the M-step of a part reads every frame, not sums of them.
        """
        if not self.is_fitted():
            return self.fit(X, y, lengths=lengths, labels=labels, sample_weight=sample_weight, inputs=inputs)
        if step_size is not None and not 0 < step_size <= 1:
            raise ValueError(f"step_size={step_size}; it must be above 0 and at most 1")
        stream: Stream | None = self.__dict__.get("_stream")
        if stream is None or not all(a is b for a, b in zip(stream.fitted, self.fitted(), strict=True)):
            require_sums(self.state_model())
            raise ValueError(
                "of these parameters (loaded, set by hand, renamed) no running sums are known; call fit, which may "
                "start from them, and then partial_fit"
            )
        data = self.sequences(
            X, lengths_given(X, y, lengths), labels=labels, weights=sample_weight, inputs=inputs
        )
        running, batches = stream.running, list(self.prepared(data).batches())
        step = decay()(running.updates) if step_size is None else step_size
        _, running = update(stream.model, batches, running, step)
        self.keep(stream.model)
        self._stream = stream._replace(running=running, fitted=self.fitted())
        return self

    def require_arguments(self) -> None:
        """Raise ValueError for arguments of the constructor that cannot be."""
        require_whole(1, n_components=self.n_components, n_init=self.n_init)
        require_whole(0, n_iter=self.n_iter)
        require_number(tol=self.tol)

    def climb(self, model: HMM, data: Sequences, monitor: ConvergenceMonitor) -> tuple[EMStep, list[str]]:
        """EM until the log-likelihood gains less than tol, or n_iter updates; the last step, and what went wrong."""
        objective, troubles = -np.inf, []
        with self.bar() as bar:
            for step in em(model, data):
                monitor.history.append(self.watched(step))
                updates = monitor.iter
                # the first update may pay for entering the prior's and the floor's constraints
                if updates > 1 and fell(objective, step.objective):
                    troubles.append(
                        f"update {updates} lost {objective - step.objective:.3g} nats, which EM cannot: "
                        "the data are badly scaled for their precision (standardise them), or an M-step is wrong"
                    )
                objective = step.objective
                if monitor.converged or updates >= self.n_iter:
                    break
                # hmmlearn updates once more after the gain falls under tol, and so do we
                small = len(monitor.history) > 1 and monitor.history[-1] - monitor.history[-2] < self.tol
                monitor.converged = small
                if bar is not None:
                    bar.update()
                    bar.set_postfix(log_likelihood=f"{monitor.history[-1]:.4f}")
        return step, troubles

    def bar(self) -> AbstractContextManager[tqdm | None]:
        """Progress, where it is asked for: a bar that shows nothing would cost more than an update of a small fit."""
        if not self.verbose:
            return nullcontext()
        return tqdm(total=self.n_iter, desc=type(self).__name__, leave=False)

    def troubles(self, model: HMM, last: EMStep) -> list[str]:
        """What a user should know of the fitted model, and what to do about it."""
        dead = [k for k, visits in enumerate(last.visits.tolist()) if visits < 1]
        if not dead:
            return []
        return [f"states {dead} explain less than one frame; use fewer states, or more starts (n_init)"]

    def watched(self, step: EMStep) -> float:
        """What monitor_ records and tol is about."""
        return step.log_likelihood

    def begin(self, model: HMM, data: Sequences, generator: torch.Generator, restart: int) -> None:
        """One M-step from responsibilities; starts differ in kind: see below."""
        # clusters and counted moves, clusters that last, then chance
        use_clusters = self.clustered and restart % 4 != 3
        responsibilities = (cluster if use_clusters else randomly)(data, self.n_components, generator)
        start(
            model,
            data,
            self.named(model, data, responsibilities, restart),
            None if restart % 2 == 0 else 0.95,
        )

    def named(self, model: HMM, data: Sequences, responsibilities: Tensor, restart: int) -> Tensor:
        """Responsibilities with the groups named as the labels name the states, where there are some."""
        if data.labels is None:
            return responsibilities
        require_labels(data.labels, self.n_components)
        return named_by(data.labels, responsibilities)

    # -- asking

    @property
    def width(self) -> int:
        return self.state_model().emission.n_features

    def prepared(self, data: Sequences) -> Sequences:
        """The data where the model is."""
        return data if self.device == "cpu" else data.to(dtype=self.dtype, device=where(self.device))

    def check(self, data: Sequences) -> None:
        self.state_model().emission.check(data.x, data.observed)

    def evaluate(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> Score:
        """The exact log-likelihood of every sequence."""
        data = self.sequences(X, lengths, inputs=inputs)
        return exact(self.state_model(), self.prepared(data))._replace(lengths=data.lengths)

    def score(
        self, X: Any, y: Any = None, *, lengths: Any = None, sample_weight: Any = None, inputs: Any = None
    ) -> float:
        """Log-likelihood of the data in nats, all sequences together: what EM ascends, sample_weight as in fit.

        As for fit, lengths may also stand second, without their name.
        """
        sizes = lengths_given(X, y, lengths)
        short = None if sample_weight is not None else self.alone(X, sizes, inputs)
        if short is not None:
            engine, chain = short
            return float(engine.log_partition(chain))
        if sample_weight is None or isinstance(X, Sequences):
            return super().score(X, lengths=sizes, sample_weight=sample_weight, inputs=inputs)
        data = self.sequences(X, sizes, weights=sample_weight, inputs=inputs)
        return float(data.weights @ exact(self.state_model(), self.prepared(data)).per_sequence)

    def sample(
        self,
        n_samples: int = 1,
        random_state: Any = None,
        currstate: int | None = None,
        *,
        inputs: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A new sequence: X (n_samples, n_features) and its states (n_samples,).

        Args:
            currstate: the state of the first step, drawn from startprob_ unless given.
            inputs: (n_samples, U) covariates, where the model reads them.
        """
        self.require_fitted()
        require_whole(1, n_samples=n_samples)
        if currstate is not None and not 0 <= currstate < self.n_components:
            raise ValueError(
                f"currstate={currstate}; with n_components={self.n_components} it is 0 to "
                f"{self.n_components - 1}"
            )
        u = require_sample_inputs(inputs, n_samples, self.n_inputs, type(self).__name__)
        generator = self.generator(random_state)
        model = on_host(self.state_model())
        x, states = model.sample(n_samples, generator, None if u is None else u.to(self.dtype), currstate)
        return x.numpy(), states.numpy()

    def n_parameters(self) -> int:
        """Free parameters: structural zeros and what params froze left out."""
        self.require_fitted()
        if hasattr(self, "n_free_"):
            return self.n_free_
        model = self.state_model()
        return model.transition.n_free() + model.emission.n_free()

    def aic(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> float:
        """−2 log p(x) + 2 · free parameters."""
        return -2 * self.score(X, lengths=lengths, inputs=inputs) + 2 * self.n_parameters()

    def bic(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> float:
        """−2 log p(x) + log(n) · free parameters, n the number of frames."""
        n = self.sequences(X, lengths, inputs=inputs).n_frames
        return -2 * self.score(X, lengths=lengths, inputs=inputs) + float(np.log(n)) * self.n_parameters()
