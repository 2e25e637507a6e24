"""A module of the emission families as JSON, and back: what a file needs to build it again without code in it.

Names are looked up in dbn_vae.emissions and nowhere else.  JSON keeps every digit of a float64.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dbn_vae import emissions
from dbn_vae.emissions.base import Emission
from dbn_vae.emissions.gaussian import GaussianPrior

OWN = set(vars(nn.Module()))  # what every module has


def describe(value: Any) -> Any:
    """An emission, or anything that is part of one, as JSON.

    Raises TypeError for a family that does not come with the package, and for a part of another kind.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        kind = "parameter" if isinstance(value, nn.Parameter) else "tensor"
        dtype = str(value.dtype).removeprefix("torch.")
        return {kind: value.detach().flatten().tolist(), "shape": list(value.shape), "dtype": dtype}
    if isinstance(value, GaussianPrior):
        return {"prior": {k: describe(v) for k, v in value._asdict().items()}}
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, nn.ModuleList):
        return {"modules": [describe(v) for v in value]}
    if isinstance(value, Emission) and known(type(value).__name__) is type(value):
        own = {k: v for k, v in vars(value).items() if k not in OWN}
        parts = own | {**value._parameters, **value._buffers, **value._modules}
        return {
            "emission": type(value).__name__,
            "parts": {name: describe(part) for name, part in parts.items()},
            "buffers": list(value._buffers),
        }
    raise TypeError(
        f"cannot write a {type(value).__name__} to a file; emissions of dbn_vae.emissions can be saved, others keep "
        "their state_dict"
    )


def build(form: Any) -> Any:
    """The reverse of describe.  Raises ValueError for a name that is no family."""
    if isinstance(form, list):
        return [build(v) for v in form]
    if not isinstance(form, dict):
        return form
    if "emission" in form:
        family = known(form["emission"])
        if family is None:
            raise ValueError(f"{form['emission']!r} is no family of dbn_vae.emissions")
        module = family.__new__(family)
        nn.Module.__init__(module)
        for name, part in form["parts"].items():
            if name in form["buffers"]:
                module.register_buffer(name, build(part))
            else:
                setattr(module, name, build(part))
        return module
    if "modules" in form:
        return nn.ModuleList([build(v) for v in form["modules"]])
    if "prior" in form:
        return GaussianPrior(**{k: build(v) for k, v in form["prior"].items()})
    if "set" in form:
        return frozenset(form["set"])
    kind = "parameter" if "parameter" in form else "tensor"
    tensor = torch.tensor(form[kind], dtype=getattr(torch, form["dtype"])).view(form["shape"])
    return nn.Parameter(tensor) if kind == "parameter" else tensor


def known(name: str) -> type[Emission] | None:
    family = getattr(emissions, name, None) if name in emissions.__all__ else None
    return family if isinstance(family, type) and issubclass(family, Emission) else None
