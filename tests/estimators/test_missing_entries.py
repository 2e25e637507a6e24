"""Encoders that are told which entries are missing."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from dbn_vae import VAE, VAEHMM, DeepMarkovModel, Sequences, SwitchingDMM, load
from dbn_vae.aevb import AEVB
from dbn_vae.likelihoods import Categorical, Gaussian

TINY: dict[str, Any] = {
    "hidden": (6,), "n_updates": 3, "n_pretrain": 3, "warm_up": 1, "batch_size": 4, "n_samples": 3, "random_state": 0,
    "device": "cpu",
}  # fmt: skip
g = torch.Generator().manual_seed(0)
CORES = {
    "vectors": lambda told: AEVB(4, 2, Gaussian(), (5,), read_missing=told),
    "symbols": lambda told: AEVB(4, 2, Categorical(3), (5,), read_missing=told),
    "pictures": lambda told: AEVB((1, 2, 2), 2, Gaussian(shared=True), (3,), read_missing=told),
}
MODELS = {
    "vae": lambda **options: VAE(2, **options),
    "vae-hmm": lambda **options: VAEHMM(2, 2, **options),
    "dmm": lambda **options: DeepMarkovModel(2, n_hidden=4, **options),
    "dmm-st": lambda **options: DeepMarkovModel(2, n_hidden=4, inference="ST-LR", **options),
    "switching-dmm": lambda **options: SwitchingDMM(2, 2, n_hidden=4, **options),
}


@pytest.mark.parametrize("kind", CORES)
def test_evidence_hears_of_what_is_missing_and_of_no_value_there(kind: str) -> None:
    core, deaf = CORES[kind](True), CORES[kind](False)
    x = torch.randint(0, 3, (7, 4), generator=g).float()
    observed = torch.rand(7, 4, generator=g) < 0.6
    observed[0] = True
    here = core.evidence(x, observed)
    other = torch.where(observed, x, (x + 1) % 3)
    torch.testing.assert_close(core.evidence(other, observed), here)
    whole = core.evidence(torch.where(observed, x, 0.0), torch.ones_like(observed))
    partly = observed.any(-1) & ~observed.all(-1)
    assert ((here.h - whole.h)[partly].abs().amax(-1) > 1e-4).all()
    weights = core.state_dict()
    for name, weight in deaf.state_dict().items():
        if weights[name].shape != weight.shape:
            weights[name] = weights[name][:, : weight.shape[1]]  # those that read values stand first
    deaf.load_state_dict(weights)
    complete = torch.ones_like(observed)  # nothing is missing, and what is added reads zeros
    torch.testing.assert_close(core.evidence(x, complete), deaf.evidence(x, complete))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_told_keeps_it_in_files_and_hands_its_core_on(name: str, tmp_path: Any) -> None:
    X = np.random.default_rng(0).normal(size=(24, 3))
    X[np.random.default_rng(1).random(X.shape) < 0.3] = np.nan
    X[5] = np.nan
    model = MODELS[name](read_missing=True, **TINY).fit(X, lengths=[12, 8, 4])
    data = Sequences.from_any(X, [12, 8, 4])
    batch = model.prepared(data).batch()
    filled = batch._replace(x=torch.where(batch.observed, batch.x, 5.0))
    with torch.no_grad():
        torch.testing.assert_close(model.module_.latents(filled), model.module_.latents(batch))
        told = model.module_.latents(batch._replace(observed=batch.mask[..., None].expand_as(batch.observed)))
        assert not torch.allclose(told, model.module_.latents(batch))
    model.save(tmp_path / "m.dbn")
    assert_allclose(
        load(tmp_path / "m.dbn").transform(X, [12, 8, 4]), model.transform(X, [12, 8, 4]), atol=1e-6
    )
    again = MODELS[name](read_missing=True, core=model, **TINY | {"n_updates": 0}).fit(X, lengths=[12, 8, 4])
    for key, value in model.module_.core.state_dict().items():
        torch.testing.assert_close(again.module_.core.state_dict()[key], value)
    with pytest.raises(
        ValueError, match="core has read_missing True, and this model False: give read_missing=True"
    ):
        MODELS[name](core=model, **TINY).fit(X, lengths=[12, 8, 4])
