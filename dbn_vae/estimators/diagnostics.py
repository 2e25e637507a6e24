"""What became of a fit, and in plain words what to do where something in it collapsed."""

import math
from typing import NamedTuple

from dbn_vae.estimators.recipe import Ascent, Curve
from dbn_vae.evaluation.collapse import ACTIVE, active_units, usage
from dbn_vae.evaluation.states import effective_states
from dbn_vae.models.base import LatentModel
from dbn_vae.sequences import Sequences
from dbn_vae.training.reseed import evenly

ENOUGH = 2**11  # frames that are looked at
DEAD = 0.1  # of an even share: a state with less is dead


class Diagnostics(NamedTuple):
    """Of joint training; averages over frames from all over the training data, in standardised units."""

    n_updates: int  # made
    best_update: int  # whose parameters were kept
    stopped_early: bool  # patience ran out
    probes: list[float]  # bound of each start on the validation data, where there were several
    reseeded: int  # times that a dead state was begun again
    gradient_norms: list[float]  # before clipping, averaged since the last look, one a look
    clipped: float  # share of the updates whose gradient was clipped
    latent_variance: list[float]  # (Z,) of the latents' means
    kl_per_latent: list[float]  # (Z,) nats per frame beyond the prediction
    active_units: int  # latents whose means vary by more than 0.01
    state_shares: list[float] | None  # (K,) of the frames; None without states
    effective_states: float | None  # exp of the entropy of these shares
    troubles: list[str]  # what collapsed, and the remedy

    def __str__(self) -> str:
        return "\n".join(f"{k:16} {shown(v)}" for k, v in self._asdict().items())


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return str(value)


def diagnose(run: Ascent, model: LatentModel, data: Sequences) -> Diagnostics:
    """Look back on a run and at what it left in the model."""
    used = usage(model, evenly(data, ENOUGH))
    n_updates = run.place.update
    shares = None if used.shares is None else used.shares.tolist()
    found = Diagnostics(
        n_updates=n_updates,
        best_update=run.keeper.update or n_updates,
        stopped_early=n_updates < run.schedule.n_updates,
        probes=run.probes,
        reseeded=run.rescued,
        gradient_norms=[c.gradient_norm for c in run.curve],
        clipped=run.clipped / max(n_updates, 1),
        latent_variance=used.variance.tolist(),
        kl_per_latent=used.kl.tolist(),
        active_units=active_units(used.variance),
        state_shares=shares,
        effective_states=None if shares is None else effective_states([shares]),
        troubles=[],
    )
    return (
        found
        if n_updates == 0
        else found._replace(troubles=troubles(found, run.curve, run.schedule.max_norm))
    )


def troubles(found: Diagnostics, curve: list[Curve], max_norm: float) -> list[str]:
    """One sentence each: what happened, and what to change."""
    told = []
    Z = len(found.latent_variance)
    # a latent that a learned prior predicts has no KL, and one of small scale no variance: either shows that it is used
    used = sum(
        v > ACTIVE or kl > ACTIVE for v, kl in zip(found.latent_variance, found.kl_per_latent, strict=True)
    )
    if used == 0:
        told.append(
            f"all {Z} latents are dead: x says nothing of z, and frames are modelled by one distribution; "
            "raise warm_up, so that latents are used before the KL weighs in full, raise n_pretrain, or look whether X "
            "has any structure"
        )
    elif 2 * used < Z:
        told.append(f"only {used} of {Z} latents are in use: n_latent={used} does the same in less time")
    if found.state_shares is not None:
        K = len(found.state_shares)
        dead = [k for k, share in enumerate(found.state_shares) if share < DEAD / K]
        if dead:
            told.append(
                f"{'state' if len(dead) == 1 else 'states'} {', '.join(map(str, dead))} of {K} explain under "
                f"{DEAD / K:.1%} of the frames: take n_components={K - len(dead)}, lower stickiness, raise n_probes, "
                "or try another random_state"
            )
    if rising(curve):
        told.append(
            "the bound was still rising at the end: raise n_updates, or learning_rate where the curve in history_ is "
            "smooth"
        )
    if found.clipped > 0.5:
        told.append(
            f"{found.clipped:.0%} of the gradients were clipped at max_norm={max_norm:g}: lower learning_rate, or look "
            "for extreme values in X"
        )
    return told


def rising(curve: list[Curve]) -> bool:
    """Whether the last quarter of a whole run brought over a tenth of its gain, and over 0.01 nats per frame."""
    if len(curve) < 8:
        return False
    bounds = [c.validation for c in curve]
    late = bounds[-1] - bounds[-1 - len(bounds) // 4]
    return late > 0.01 and late > 0.1 * (max(bounds) - min(bounds)) and math.isclose(bounds[-1], max(bounds))
