"""Training that can be stopped and taken up again to the same numbers: model, optimizer and random state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbn_vae import storage
from dbn_vae.models.base import Model


def save(
    path: Path | str,
    model: Model,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    facts: dict[str, Any],
    more: Mapping[str, Tensor] | None = None,
) -> None:
    """Write everything a run needs to go on; facts is any JSON, the epoch for one, and more any named tensors."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"more.{k}": v for k, v in (more or {}).items()}
    state = optimizer.state_dict()
    for i, entry in state["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    tensors["generator"] = generator.get_state()
    groups = [{k: v for k, v in g.items()} for g in state["param_groups"]]
    storage.save(path, tensors, {"facts": facts, "groups": groups})


def read(path: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and the further tensors that save wrote, to look at before anything is put back.

    Raises ValueError for a file that is damaged or no checkpoint.
    """
    tensors, stored = storage.load(path)
    if "groups" not in stored:
        raise ValueError(f"{path} is no checkpoint of a training run")
    return dict(stored["facts"]), {
        k.removeprefix("more."): v for k, v in tensors.items() if k.startswith("more.")
    }


def load(
    path: Path | str, model: Model, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Any]:
    """Put model, optimizer and generator back where save left them; returns the facts."""
    tensors, stored = storage.load(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": stored["groups"]})
    generator.set_state(tensors["generator"])
    return dict(stored["facts"])
