"""What the deep estimators share: scaling, training, honest scores.

Training follows one recipe. The static core is pre-trained on single frames, the model takes its own start from
it, and then everything ascends the bound together while β rises; a part of the sequences is kept apart,
their bound is watched once β = 1, and the best parameters seen are the ones kept.

Real data are standardised inside, and every score is given back in nats per the data's own units, so that the
numbers stand beside a classical model's.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from sklearn.utils import Tags, TransformerTags
from torch import Tensor
from tqdm.auto import tqdm

from dbn_vae.aevb import AEVB
from dbn_vae.estimators.arguments import lengths_given
from dbn_vae.estimators.base import SequenceEstimator, require_at_least, weighted_total
from dbn_vae.estimators.devices import where
from dbn_vae.evaluation.likelihood import Score, elbo, iwae, smc
from dbn_vae.likelihoods import Likelihood, named
from dbn_vae.models.base import LatentModel
from dbn_vae.models.vae import VAE as StaticVAE
from dbn_vae.sequences import Batch, Sequences
from dbn_vae.training.sgvb import AscentStep, Objective, ascend, ramp


class Curve(NamedTuple):
    """What was seen at one look at the validation sequences."""

    update: int
    train: float  # objective per frame, averaged since the last look
    validation: float  # bound per frame


@dataclass(eq=False, repr=False)
class DeepEstimator(SequenceEstimator):
    """A trained LatentModel behind the verbs.

    Args:
        likelihood: "gaussian", "student-t", "bernoulli", "made" (binary entries that depend on each other),
            "categorical", "poisson" or "negative-binomial".
        hidden: widths of the encoder's hidden layers; the decoder's are the same reversed.
        n_updates: gradient steps of joint training, after n_pretrain on single frames.
        warm_up: updates in which β rises from 0.01 to 1.
        batch_size: sequences (or pieces) a step; frames are 32 times as many while pre-training.
        learning_rate: of Adam at its highest; it rises over 20 steps and falls to 0 as a cosine.
        max_length: longer sequences are cut to such pieces for gradient steps; scores never are.
        validation: share of the pieces kept apart to choose the best parameters; 0 for none.
        standardize: Gaussian and Student-t data are scaled inside; scores are in the units of X all the same.
        n_samples: S of the importance bound that score reports.
        random_state: an int makes fits and samples repeatable.
        device: "auto", "cpu" or "cuda".
        verbose: show progress bars.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    frames_at_once: ClassVar[int] = 2**14

    _: KW_ONLY
    likelihood: str = "gaussian"
    hidden: tuple[int, ...] = (64,)
    n_updates: int = 1000
    n_pretrain: int = 500
    warm_up: int = 300
    batch_size: int = 16
    learning_rate: float = 3e-3
    max_length: int | None = 100
    validation: float = 0.15
    standardize: bool = True
    n_samples: int = 100
    random_state: Any = None
    device: str = "auto"
    verbose: bool = False

    @property
    @abstractmethod
    def n_latent(self) -> int:
        """Z; a model's first or second argument."""

    @abstractmethod
    def build(self, core: AEVB) -> LatentModel:
        """An untrained model around a core."""

    @abstractmethod
    def begin(self, model: LatentModel, data: Sequences, generator: torch.Generator) -> None:
        """The model's own start, given a pre-trained core and (scaled) data."""

    def fit(
        self, X: Any, y: Any = None, *, lengths: Any = None, labels: Any = None, sample_weight: Any = None
    ) -> Self:
        """Train on data in any form that Sequences.from_any takes.

        Args:
            y: not read, or lengths without their name: see lengths_given.
            labels: known states, one a frame, −1 where unknown; for models with states.
            sample_weight: (B,) weight of each sequence.

        On Ctrl-C the best parameters so far are kept before the interrupt goes on.
        """
        require_at_least(1, n_latent=self.n_latent, batch_size=self.batch_size, n_samples=self.n_samples)
        require_at_least(0, n_updates=self.n_updates, n_pretrain=self.n_pretrain, warm_up=self.warm_up)
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"validation={self.validation}; it is a share of the sequences, from 0 to under 1"
            )
        generator = self.generator()
        data = self.read(X, lengths_given(X, y, lengths), labels=labels, weights=sample_weight)
        self.remember_columns(X)
        self.size_up(data)
        self.check(data)
        data = self.prepared(data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            self.module_ = self.new_module()
        train, validation = self.split(data, generator)
        static = StaticVAE(self.module_.core)
        self.history_: list[Curve] = []
        self.climb(static, train.frames(), None, self.n_pretrain, "core", generator)
        self.begin(self.module_, train, generator)
        self.climb(self.module_, train, validation, self.n_updates, "joint", generator)
        return self

    def size_up(self, data: Sequences) -> None:
        """Everything that must be known of the data before a module can be built."""
        if data.x.dim() != 2:
            raise ValueError(f"X has frames of shape {tuple(data.x.shape[1:])}; these models take vectors")
        self.width_ = data.x.shape[1]
        self.n_symbols_ = int(data.x.max()) + 1 if self.likelihood == "categorical" else None
        self.center_, self.scale_ = data.x.new_zeros(self.width_), data.x.new_ones(self.width_)
        if self.likelihood in ("gaussian", "student-t") and self.standardize:
            count = data.observed.sum(0).clamp_min(1)
            self.center_ = data.x.sum(0) / count
            spread = (((data.x - self.center_) * data.observed).square().sum(0) / count).sqrt()
            self.scale_ = torch.where(spread > 0, spread, 1.0)

    def new_module(self) -> LatentModel:
        core = AEVB(self.width_, self.n_latent, self.family(), tuple(self.hidden))
        return self.build(core).to(self.where())

    def where(self) -> torch.device:
        return where(self.device)

    def prepared(self, data: Sequences) -> Sequences:
        """The data as the module sees them: standardised, on its device."""
        x = (data.x - self.center_.to(data.x)) / self.scale_.to(data.x)
        return data.replace(x=torch.where(data.observed, x, 0.0)).to(dtype=self.dtype, device=self.where())

    def family(self) -> Likelihood:
        options: dict[str, dict[str, int | None]] = {
            "categorical": {"n_symbols": self.n_symbols_},
            "made": {"n_observed": self.width_},
        }
        return named(self.likelihood, **options.get(self.likelihood, {}))

    def split(self, data: Sequences, generator: torch.Generator) -> tuple[Sequences, Sequences | None]:
        """Training pieces, and validation pieces where there are enough to spare some."""
        pieces = data if self.max_length is None else data.segments(self.max_length)
        held = int(self.validation * len(pieces))
        if held == 0:
            return pieces, None
        order = torch.randperm(len(pieces), generator=generator)
        return pieces.subset(order[held:].sort().values), pieces.subset(order[:held].sort().values)

    def climb(
        self,
        model: LatentModel,
        train: Sequences,
        validation: Sequences | None,
        n_updates: int,
        what: str,
        generator: torch.Generator,
    ) -> None:
        """n_updates of Adam with a cosine decay; leaves the best parameters in the model."""
        if n_updates == 0:
            return
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda u: min(1.0, (u + 1) / 20) * 0.5 * (1 + math.cos(math.pi * u / n_updates))
        )
        warm_up = min(self.warm_up, n_updates // 2)
        look_every = max(n_updates // 20, 1)
        keeper = Keeper(model)
        batch_size = self.batch_size if what == "joint" else 32 * self.batch_size
        steps = ascend(
            model,
            train,
            optimizer,
            batch_size=min(batch_size, len(train)),
            generator=generator,
            beta=ramp(warm_up),
            objective=self.training_objective(model),
        )
        recent: list[AscentStep] = []
        name = f"{type(self).__name__} {what}"
        with tqdm(total=n_updates, desc=name, disable=not self.verbose, leave=False) as bar:
            try:
                for step in steps:
                    schedule.step()
                    recent.append(step)
                    bar.update()
                    if step.update % look_every == 0 or step.update == n_updates:
                        seen = self.look(model, validation, recent)
                        if what == "joint":
                            self.history_.append(seen)
                        bar.set_postfix(nats_per_frame=f"{seen.train:.3f}")
                        if step.update >= warm_up:
                            keeper.offer(seen.validation)
                        recent = []
                    if step.update >= n_updates:
                        break
            finally:
                if validation is not None:
                    keeper.restore()

    def training_objective(self, model: LatentModel) -> Objective | None:
        """What training ascends; None for the model's own."""
        return None

    def look(self, model: LatentModel, validation: Sequences | None, recent: list[AscentStep]) -> Curve:
        train = float(np.mean([s.objective for s in recent]))
        if validation is None:
            return Curve(recent[-1].update, train, train)
        fixed = torch.Generator().manual_seed(0)  # the same noise at every look: looks are comparable
        return Curve(recent[-1].update, train, iwae(model, validation, fixed, 8).per_frame)

    # -- asking

    @property
    def width(self) -> int:
        return self.width_

    def is_fitted(self) -> bool:
        return hasattr(self, "module_")

    def check(self, data: Sequences) -> None:
        with torch.random.fork_rng(devices=[]):  # a family with weights of its own draws them
            self.family().check(data.x, data.observed)

    def n_parameters(self) -> int:
        """Weights of the generative model and of its inference networks together."""
        self.require_fitted()
        return sum(p.numel() for p in self.module_.parameters())

    def evaluate(
        self,
        X: Any,
        lengths: Any = None,
        *,
        inputs: Any = None,
        method: str = "iwae",
        n_samples: int | None = None,
    ) -> Score:
        """A lower bound of the log-likelihood of every sequence, in the units of X.

        Args:
            method: "iwae", the importance bound; "smc", a particle filter's, tighter for long sequences; or "elbo".
            n_samples: S, or the number of particles; self.n_samples without it.
        """
        bounds: dict[str, Callable[..., Score]] = {"iwae": iwae, "elbo": elbo, "smc": smc}
        if method not in bounds:
            raise ValueError(f"method={method!r}; it is one of {sorted(bounds)}")
        raw = self.sequences(X, lengths, inputs=inputs)
        fixed = torch.Generator().manual_seed(0)  # scores are repeatable
        score = bounds[method](self.module_, self.prepared(raw), fixed, n_samples or self.n_samples)
        owner = torch.arange(len(raw)).repeat_interleave(raw.lengths)
        jacobian = torch.zeros(len(raw), dtype=torch.float64).index_add(0, owner, self.log_units(raw))
        return score._replace(per_sequence=score.per_sequence - jacobian, lengths=raw.lengths)

    def log_units(self, raw: Sequences) -> Tensor:
        """Σ log scale over the observed entries of each frame: (N,); what log p(x) is below log p(standardised x)."""
        return (raw.observed * self.scale_.log()).sum(-1).double()

    def score(
        self,
        X: Any,
        y: Any = None,
        *,
        lengths: Any = None,
        sample_weight: Any = None,
        inputs: Any = None,
        method: str = "iwae",
        n_samples: int | None = None,
    ) -> float:
        """A lower bound of the log-probability of the data in nats, all sequences together.

        Args:
            y, lengths, sample_weight, inputs: see SequenceEstimator.score.
            method, n_samples: see evaluate.
        """
        score = self.evaluate(
            X, lengths_given(X, y, lengths), inputs=inputs, method=method, n_samples=n_samples
        )
        return weighted_total(score, sample_weight)

    def transform(self, X: Any, lengths: Any = None) -> np.ndarray:
        """The latents' posterior means: (n, n_latent)."""
        self.require_fitted()
        return self.like(X, self.per_frame(X, lengths, self.module_.latents, self.n_latent))

    def fit_transform(self, X: Any, y: Any = None, *, lengths: Any = None, **options: Any) -> np.ndarray:
        """fit, then transform of the same data: (n, n_latent)."""
        sizes = lengths_given(X, y, lengths)
        return self.fit(X, lengths=sizes, **options).transform(X, sizes)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=[])
        tags.input_tags.positive_only = self.likelihood in ("categorical", "poisson", "negative-binomial")
        return tags

    def reconstruct(self, X: Any, lengths: Any = None) -> np.ndarray:
        """E p(x_t | z_t) at the latents, in the units of X: (n, D); missing entries are filled in."""
        self.require_fitted()
        x = self.in_units(self.per_frame(X, lengths, self.module_.reconstruct, self.width))
        return self.like(X, x)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """E p(x | z) for latents (n, n_latent), in the units of X: (n, D)."""
        self.require_fitted()
        weight = next(self.module_.parameters())
        with torch.no_grad():
            return self.in_units(self.module_.core.mean(torch.as_tensor(Z).to(weight)))

    def in_units(self, x: np.ndarray | Tensor) -> np.ndarray:
        """Standardised frames in the units of X."""
        return (torch.as_tensor(x).cpu() * self.scale_ + self.center_).numpy()

    def per_frame(self, X: Any, lengths: Any, ask: Callable[[Batch], Tensor], width: int) -> np.ndarray:
        data = self.prepared(self.sequences(X, lengths))
        out = torch.zeros(data.n_frames, width)
        with torch.no_grad():
            for batch in data.batches(self.frames_at_once):
                data.unbatch(batch, ask(batch).cpu(), out)
        return out.numpy()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"module.{k}": v for k, v in self.module_.state_dict().items()}
        tensors |= {"center": self.center_, "scale": self.scale_}
        facts = {
            "width": self.width_,
            "n_symbols": self.n_symbols_,
            "history": [list(c) for c in self.history_],
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.width_, self.n_symbols_ = facts["width"], facts["n_symbols"]
        self.center_, self.scale_ = tensors["center"], tensors["scale"]
        self.history_ = [Curve(*c) for c in facts["history"]]
        self.module_ = self.new_module()
        self.module_.load_state_dict(
            {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
        )


class Keeper:
    """The best parameters offered so far."""

    def __init__(self, model: LatentModel) -> None:
        self.model = model
        self.value = -math.inf
        self.parameters: dict[str, Tensor] | None = None

    def offer(self, value: float) -> None:
        if value > self.value:
            self.value = value
            self.parameters = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def restore(self) -> None:
        if self.parameters is not None:
            self.model.load_state_dict(self.parameters)
