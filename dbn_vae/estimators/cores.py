"""Trained static cores as an argument: kept in files, told apart, carried from one model to the next."""

from typing import Any

from torch import Tensor

from dbn_vae import estimators, storage
from dbn_vae.aevb import AEVB
from dbn_vae.estimators.base import SequenceEstimator, jsonable
from dbn_vae.estimators.described import describe, rebuild

Core = SequenceEstimator | AEVB | None


def stored(core: Core) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A core as tensors, named "given. ...", and JSON."""
    if core is None:
        return {}, None
    if isinstance(core, AEVB):
        tensors, module = describe(core, "given")
        return tensors, {"module": module}
    tensors, state = core.state()
    facts = {
        "estimator": type(core).__name__,
        "parameters": jsonable(core.plain_parameters()),
        "state": state,
    }
    return {f"given.{k}": v for k, v in tensors.items()}, facts


def restored(facts: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Any:
    """The reverse of stored."""
    if facts is None:
        return None
    if "module" in facts:
        return rebuild(facts["module"], tensors)
    core: SequenceEstimator = getattr(estimators, facts["estimator"])(**facts["parameters"])
    own = {k.removeprefix("given."): v for k, v in tensors.items() if k.startswith("given.")}
    core.restore(own, facts["state"])
    return core


def digest(core: Core) -> str | None:
    """Equal for equal cores: of every number in them."""
    if core is None:
        return None
    tensors = core.state_dict() if isinstance(core, AEVB) else core.state()[0]
    return storage.digest({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, type(core).__name__)
