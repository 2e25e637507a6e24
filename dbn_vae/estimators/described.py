"""Modules as tensors and JSON: what they hold, part by part, and the same modules again.

A file names the classes of its modules, and none is imported for it: only classes that the program has already defined
or imported are made, without calling their constructors, and nothing but numbers, text, tensors and modules is put in.
"""

from typing import Any

from torch import Tensor, nn

from dbn_vae import emissions

OWN = frozenset(vars(nn.Module()))  # what every module keeps for itself


def describe(module: nn.Module, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A module's tensors, named under the prefix, and everything else as JSON.

    Raises TypeError naming the attribute that a file cannot hold.
    """
    tensors: dict[str, Tensor] = {}

    def stored(name: str, value: Tensor) -> str:
        key = f"{prefix}.{len(tensors)}.{name}"
        tensors[key] = value.detach()
        return key

    def written(name: str, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            return {"tensor": stored(name, value)}
        if isinstance(value, tuple) and getattr(emissions, type(value).__name__, None) is type(value):
            return {"named": type(value).__name__, "of": [written(name, v) for v in value]}
        for kind in (list, tuple, frozenset):
            if type(value) is kind:
                items = sorted(value) if kind is frozenset else value
                return {kind.__name__: [written(name, v) for v in items]}
        if type(value) is dict and all(isinstance(k, str) for k in value):
            return {"dict": {k: written(name, v) for k, v in value.items()}}
        raise TypeError(
            f"cannot save the attribute {name!r}, a {type(value).__name__}: a file holds numbers, text, tensors, "
            "modules, and lists, tuples and dicts of these"
        )

    def part(m: nn.Module) -> dict[str, Any]:
        return {
            "module": type(m).__module__,
            "class": type(m).__qualname__,
            "training": m.training,
            "parameters": {
                k: {"tensor": stored(k, p), "requires_grad": p.requires_grad}
                for k, p in m._parameters.items()
                if p is not None
            },
            "buffers": {k: stored(k, v) for k, v in m._buffers.items() if v is not None},
            "parts": {k: part(child) for k, child in m._modules.items() if child is not None},
            "plain": {k: written(k, v) for k, v in vars(m).items() if k not in OWN},
        }

    return tensors, part(module)


def rebuild(facts: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The module that `describe` described.

    Raises ValueError for a class that the program does not know.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content), *rest) = value.items()
        if kind == "tensor":
            return tensors[content].clone()
        if kind == "named":
            return named_tuple(content)(*(read(v) for v in rest[0][1]))
        if kind == "dict":
            return {k: read(v) for k, v in content.items()}
        return {"list": list, "tuple": tuple, "frozenset": frozenset}[kind](read(v) for v in content)

    cls = class_of(facts["module"], facts["class"])
    module: nn.Module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, value in facts["plain"].items():
        vars(module)[name] = read(value)
    for name, p in facts["parameters"].items():
        module.register_parameter(name, nn.Parameter(tensors[p["tensor"]].clone(), p["requires_grad"]))
    for name, key in facts["buffers"].items():
        module.register_buffer(name, tensors[key].clone())
    for name, child in facts["parts"].items():
        module.add_module(name, rebuild(child, tensors))
    return module.train(facts["training"])


def named_tuple(name: str) -> Any:
    found = getattr(emissions, name, None)
    if not (isinstance(found, type) and issubclass(found, tuple)):
        raise ValueError(f"the file names {name!r}, which dbn_vae.emissions does not know")
    return found


def class_of(home: str, name: str) -> type[nn.Module]:
    """The class of this name that the program knows; of several, the one from the module that the file names, and of
    those the one defined last."""
    found = [c for c in known(nn.Module) if c.__qualname__ == name]
    at_home = [c for c in found if c.__module__ == home]
    if at_home or len(found) == 1:
        return (at_home or found)[-1]
    raise ValueError(
        f"the file holds a module of class {name!r} of {home!r}, which this program does not know: import or define "
        "the class before loading"
    )


def known(base: type[nn.Module]) -> list[type[nn.Module]]:
    """All classes below a base that have been defined, each once."""
    found: dict[type[nn.Module], None] = {}
    left = list(base.__subclasses__())
    while left:
        cls = left.pop(0)
        if cls not in found:
            found[cls] = None
            left += cls.__subclasses__()
    return list(found)
