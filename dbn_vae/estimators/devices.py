"""Where a model computes: one word of the user's, and everything a module holds brought there."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def where(device: str) -> torch.device:
    """The device that device="cpu", "cuda" or "auto" (a GPU where there is one) names.

    Raises ValueError for another word, and for a GPU that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r}; it is 'cpu', 'cuda' or 'auto'")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but torch sees no CUDA GPU here; use device='cpu' or 'auto'")
    return torch.device(device)


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Bring a module there, floats in this type: parameters, buffers, and tensors that are neither, as priors are."""
    module.to(device, dtype)
    for part in module.modules():
        for name, value in vars(part).items():
            if not name.startswith("_"):
                vars(part)[name] = placed(value, device, dtype)


def on_host(module: M) -> M:
    """The module where random numbers and NumPy are: itself, or a copy of one that is on a GPU."""
    some = next(module.parameters(), None)
    if some is None or some.device.type == "cpu":
        return module
    copied = copy.deepcopy(module)
    place(copied, torch.device("cpu"), some.dtype)
    return copied


def placed(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A tensor, or the tensors among a tuple's or a list's, brought there; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, tuple | list):
        moved = [placed(v, device, dtype) for v in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value
