"""What the deep estimators share: scaling, honest scores, files.  How they are trained is in deep_training.py.

Real data are standardised inside, and every score is given back in nats per the data's own units, so that the
numbers stand beside a classical model's.
"""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils import Tags, TransformerTags
from torch import Tensor

from dbn_vae.aevb import AEVB
from dbn_vae.estimators import cores
from dbn_vae.estimators.arguments import frame_shape, lengths_given, require_sample_inputs, require_whole
from dbn_vae.estimators.base import weighted_total
from dbn_vae.estimators.deep_training import DeepTraining, flattened
from dbn_vae.estimators.devices import where
from dbn_vae.estimators.diagnostics import Diagnostics
from dbn_vae.estimators.recipe import Curve
from dbn_vae.evaluation.likelihood import Score, elbo, iwae, smc
from dbn_vae.likelihoods import Likelihood, named
from dbn_vae.models.base import LatentModel
from dbn_vae.sequences import Batch, Sequences


@dataclass(eq=False, repr=False)
class DeepEstimator(DeepTraining):
    """A trained LatentModel behind the verbs.

    Args:
        likelihood: "gaussian", "student-t", "bernoulli", "made" (binary entries that depend on each other),
            "continuous-bernoulli" (between 0 and 1), "categorical", "poisson" or "negative-binomial". Of pictures
            "gaussian" has one scale for all pixels, which is learnt.
        hidden: widths of the encoder's hidden layers; the decoder's are the same reversed. For pictures (C, H, W) the
            channels of its convolutions, each of which halves height and width. (64,), or (32, 64, 64), without it.
        read_missing: encoders, and networks over time, read of every entry whether it is missing. False, the default,
            they cannot tell a missing entry from an average one; of frames seen whole or not at all they need not.
        n_updates: gradient steps of joint training, after n_pretrain on single frames.
        warm_up: updates in which β rises from 0.01 to 1.
        batch_size: sequences (or pieces) a step; frames are 32 times as many while pre-training.
        learning_rate: of Adam at its highest; it rises over 20 steps and falls to 0 as a cosine.
        max_length: longer sequences are cut to such pieces for gradient steps; scores never are.
        validation: share of the pieces kept apart to choose the best parameters; 0 for none.
        patience: training ends when so many looks (a twentieth of n_updates each, or ten updates if that is more) at
            β = 1 brought no better bound of the validation pieces; None to go on to n_updates.
        max_norm: longer gradients are clipped to this norm; inf for none.
        n_probes: starts that go through the first tenth of joint training, or ten updates, of which the best goes on.
        core: a fitted deep estimator, or an AEVB module: its weights, and an estimator's scaling, are taken over, and
            there is no pre-training.  It must have the same columns, n_latent, likelihood, hidden and read_missing.
        freeze_core: joint training leaves the core as it is, to the bit.
        standardize: Gaussian and Student-t data are scaled inside, pictures by channel; scores are in the units of X
            all the same.
        n_samples: S of the importance bound that score reports.
        random_state: an int makes fits and samples repeatable.
        device: "auto", "cpu" or "cuda".
        verbose: show progress bars.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    frames_at_once: ClassVar[int] = 2**14

    _: KW_ONLY
    likelihood: str = "gaussian"
    hidden: tuple[int, ...] | None = None
    read_missing: bool = False
    n_updates: int = 1000
    n_pretrain: int = 500
    warm_up: int = 300
    batch_size: int = 16
    learning_rate: float = 3e-3
    max_length: int | None = 100
    validation: float = 0.15
    patience: int | None = 8
    max_norm: float = 10.0
    n_probes: int = 1
    core: Any = None
    freeze_core: bool = False
    standardize: bool = True
    n_samples: int = 100
    random_state: Any = None
    device: str = "auto"
    verbose: bool = False

    @property
    def n_core_latent(self) -> int:
        """Latents that the core decodes: Z, and those that a model shares between frames."""
        return self.n_latent

    @abstractmethod
    def build(self, core: AEVB) -> LatentModel:
        """An untrained model around a core."""

    def size_up(self, data: Sequences) -> None:
        """Everything that must be known of the data before a module can be built."""
        self.frame_ = frame_shape(data)
        self.n_symbols_ = int(data.x.max()) + 1 if self.likelihood == "categorical" else None
        self.center_, self.scale_ = data.x.new_zeros(self.width), data.x.new_ones(self.width)
        if self.likelihood in ("gaussian", "student-t") and self.standardize:
            # a column, or a channel: pixel by pixel, what hardly ever changes would be blown up
            over = (0, 2, 3) if self.pictures else (0,)
            count = data.observed.sum(over, keepdim=True).clamp_min(1)
            center = data.x.sum(over, keepdim=True) / count
            spread = (((data.x - center) * data.observed).square().sum(over, keepdim=True) / count).sqrt()
            scale = torch.where(spread > 0, spread, 1.0)
            self.center_, self.scale_ = (v[0].expand(self.frame_).flatten() for v in (center, scale))

    @property
    def pictures(self) -> bool:
        return len(self.frame_) == 3

    def new_module(self) -> LatentModel:
        return self.build(self.new_core()).to(self.where())

    def new_core(self) -> AEVB:
        hidden: tuple[int, ...] = (64,)
        activation: type[torch.nn.Module] = torch.nn.Tanh
        if self.pictures:
            hidden, activation = (32, 64, 64), torch.nn.ReLU
        if self.hidden is not None:
            hidden = tuple(self.hidden)
        frame = self.frame_ if len(self.frame_) == 3 else self.width
        return AEVB(frame, self.n_core_latent, self.family(), hidden, activation, self.read_missing)

    def where(self) -> torch.device:
        return where(self.device)

    def prepared(self, data: Sequences) -> Sequences:
        """The data as the module sees them: standardised, on its device."""
        x = (data.x - self.center_.to(data.x)) / self.scale_.to(data.x)
        return data.replace(x=torch.where(data.observed, x, 0.0)).to(dtype=self.dtype, device=self.where())

    def family(self) -> Likelihood:
        options: dict[str, dict[str, int | None]] = {
            "categorical": {"n_symbols": self.n_symbols_},
            "made": {"n_observed": self.width},
            "gaussian": {"shared": self.pictures},
        }
        return named(self.likelihood, **options.get(self.likelihood, {}))

    # -- asking

    @property
    def width(self) -> int:
        return math.prod(self.frame_)

    @property
    def frame(self) -> tuple[int, ...]:
        return self.frame_

    def sequences(self, X: Any, lengths: Any = None, **fields: Any) -> Sequences:
        """X in any accepted form, every frame one vector (D,)."""
        return flattened(super().sequences(X, lengths, **fields))

    @property
    def n_inputs(self) -> int:
        """Columns of the inputs given to fit."""
        return getattr(self, "n_inputs_", 0)

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

        Raises ValueError for another method, and for n_samples under 1.
        """
        S = self.n_samples if n_samples is None else n_samples
        require_whole(1, n_samples=S)
        bounds: dict[str, Callable[..., Score]] = {"iwae": iwae, "elbo": elbo, "smc": smc}
        if method not in bounds:
            raise ValueError(f"method={method!r}; it is one of {sorted(bounds)}")
        raw = self.sequences(X, lengths, inputs=inputs)
        fixed = torch.Generator().manual_seed(0)  # scores are repeatable
        score = bounds[method](self.module_, self.prepared(raw), fixed, S)
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

    def transform(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """The latents' posterior means: (n, n_latent)."""
        self.require_fitted()
        return self.like(X, self.per_frame(X, lengths, self.module_.latents, self.n_core_latent, inputs))

    def fit_transform(self, X: Any, y: Any = None, *, lengths: Any = None, **options: Any) -> np.ndarray:
        """fit, then transform of the same data: (n, n_latent)."""
        sizes = lengths_given(X, y, lengths)
        return self.fit(X, lengths=sizes, **options).transform(X, sizes, inputs=options.get("inputs"))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=[])
        tags.input_tags.positive_only = self.likelihood in ("categorical", "poisson", "negative-binomial")
        return tags

    def reconstruct(self, X: Any, lengths: Any = None, *, inputs: Any = None) -> np.ndarray:
        """E p(x_t | z_t) at the latents, in the units of X: (n, D) or (n, C, H, W); missing entries are filled in."""
        self.require_fitted()
        x = self.in_units(self.per_frame(X, lengths, self.module_.reconstruct, self.width, inputs))
        return self.like(X, x)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """E p(x | z) for latents (n, n_latent), in the units of X: (n, D) or (n, C, H, W).

        Raises NotImplementedError with state_offset=True, where z alone does not say what a frame is.
        """
        self.require_fitted()
        if getattr(self, "state_offset", False):
            raise NotImplementedError(
                "inverse_transform is not offered with state_offset=True, where frames depend on states beside z: use "
                "reconstruct"
            )
        weight = next(self.module_.parameters())
        with torch.no_grad():
            return self.in_units(self.module_.core.mean(torch.as_tensor(Z).to(weight)))

    def in_units(self, x: np.ndarray | Tensor) -> np.ndarray:
        """Standardised frames (..., D) in the units and the shape of those of X."""
        return (torch.as_tensor(x).cpu() * self.scale_ + self.center_).unflatten(-1, self.frame_).numpy()

    def per_frame(
        self, X: Any, lengths: Any, ask: Callable[[Batch], Tensor], width: int, inputs: Any = None
    ) -> np.ndarray:
        data = self.prepared(self.sequences(X, lengths, inputs=inputs))
        out = torch.zeros(data.n_frames, width)
        with torch.no_grad():
            for batch in data.batches(self.frames_at_once):
                data.unbatch(batch, ask(batch).cpu(), out)
        return out.numpy()

    def sample_inputs(self, inputs: Any, n_samples: int) -> Tensor | None:
        """The inputs (n_samples, U) of a sequence to draw, where the module ones are read."""
        u = require_sample_inputs(inputs, n_samples, self.n_inputs, type(self).__name__)
        return None if u is None else u.to(next(self.module_.parameters()))

    def plain_parameters(self) -> dict[str, Any]:
        return super().plain_parameters() | {"core": None}

    def __sklearn_clone__(self) -> Self:
        """A core goes along as it is: a clone of a fitted estimator would be an unfitted one."""
        bare = copy.copy(self)
        bare.core = None
        twin = super(DeepEstimator, bare).__sklearn_clone__()
        twin.core = self.core
        return twin

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"module.{k}": v for k, v in self.module_.state_dict().items()}
        tensors |= {"center": self.center_, "scale": self.scale_}
        given, core = cores.stored(self.core)
        facts = {
            "frame": list(self.frame_),
            "n_symbols": self.n_symbols_,
            "n_inputs": self.n_inputs,
            "history": [list(c) for c in self.history_],
            "diagnostics": None if self.diagnostics_ is None else self.diagnostics_._asdict(),
            "core": core,
        }
        return tensors | given, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.frame_, self.n_symbols_ = tuple(facts["frame"]), facts["n_symbols"]
        self.n_inputs_ = facts.get("n_inputs", 0)
        self.center_, self.scale_ = tensors["center"], tensors["scale"]
        self.history_ = [Curve(*c) for c in facts["history"]]
        told = facts.get("diagnostics")
        self.diagnostics_ = None if told is None else Diagnostics(**told)
        self.core = cores.restored(facts.get("core"), tensors)
        self.module_ = self.new_module()
        self.module_.load_state_dict(
            {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
        )
