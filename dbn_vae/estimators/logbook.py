"""The file of one fit: who the fit is, and how far it came.

A fit is its arguments and its data.  A file of another fit is refused, by the name of what differs; a file of this one
is where it goes on, to the numbers it would have come to without a break.
"""

import time
from pathlib import Path
from typing import Any

import torch

from dbn_vae import storage
from dbn_vae.estimators.base import jsonable
from dbn_vae.estimators.recipe import Ascent
from dbn_vae.sequences import Sequences
from dbn_vae.training import checkpoint

SECONDS = 60.0  # between two writes, where looks are further apart


class Logbook:
    """Written whole at every look, and every minute; without a path there is no file, and nothing is written.

    Args:
        identity: of the fit, see identity_of.
        generator: set to where the fit of the file began.

    Raises ValueError where the file is of another fit.
    """

    def __init__(
        self, path: Path | str | None, identity: dict[str, dict[str, Any]], generator: torch.Generator
    ) -> None:
        self.path, self.identity = path, identity
        self.facts: dict[str, Any] = {}
        if path is not None and Path(path).exists():
            self.facts, self.tensors = checkpoint.read(path)
            require_same(path, self.facts.get("identity", {}), identity)
            generator.set_state(self.tensors["started"])
        self.started = generator.get_state()
        self.written = time.monotonic()

    @property
    def phase(self) -> str:
        """Which run the file is about; empty where there is none yet."""
        return str(self.facts.get("phase", ""))

    def go_on(self, phase: str, run: Ascent) -> None:
        """Put a run where the file has it, if the file is about that run."""
        if self.path is not None and self.phase == phase:
            checkpoint.load(self.path, run.model, run.optimizer, run.generator)
            run.put_back(self.facts["run"], self.tensors)

    def write(self, phase: str, run: Ascent, looked: bool) -> None:
        """Where it is time."""
        if self.path is None or not (looked or time.monotonic() - self.written > SECONDS):
            return
        facts = {"identity": self.identity, "phase": phase, "run": run.facts()}
        more = {"started": self.started} | run.tensors()
        checkpoint.save(self.path, run.model, run.optimizer, run.generator, facts, more)
        self.written = time.monotonic()


def identity_of(name: str, arguments: dict[str, Any], data: Sequences) -> dict[str, dict[str, Any]]:
    """A fit as JSON: the estimator's name and arguments, and a digest of everything the data hold."""
    fields = {k: v for k, v in vars(data).items() if isinstance(v, torch.Tensor)}
    return {
        "arguments": {"class": name} | {k: jsonable(v) for k, v in arguments.items()},
        "data": {k: storage.digest({k: v.cpu().contiguous()}, "") for k, v in fields.items()},
    }


def require_same(path: Path | str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise ValueError naming the first argument, or what of the data, in which two fits differ."""
    for name, value in ours["arguments"].items():
        other = theirs.get("arguments", {}).get(name)
        if other != value:
            raise ValueError(
                f"checkpoint={str(path)!r} was written by a fit with {name}={other!r}, and this one has "
                f"{name}={value!r}: fit with the same arguments, or write to another file"
            )
    found = theirs.get("data", {})
    differ = sorted(k for k in ours["data"].keys() | found.keys() if ours["data"].get(k) != found.get(k))
    if differ:
        raise ValueError(
            f"checkpoint={str(path)!r} was written by a fit to other data ({', '.join(differ)} differ): "
            "fit to the same data, or write to another file"
        )
