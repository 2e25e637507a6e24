"""`load` gives back what `save` was given, and refuses everything else by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dbn_vae
from dbn_vae import GaussianHMM, io, storage
from dbn_vae.estimators.base import FORMAT

X = np.random.default_rng(0).normal(size=(40, 2))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.dbn"
    GaussianHMM(2, "full", random_state=3, n_iter=4).fit(X).save(path)
    return path


def rewritten(file: Path, **changes: Any) -> Path:
    """The same file, well formed, with other facts in its head."""
    tensors, facts = storage.load(file)
    storage.save(file, tensors, facts | changes)
    return file


def test_the_package_and_the_module_load_alike(file: Path) -> None:
    a, b = dbn_vae.load(file), io.load(str(file))
    assert isinstance(a, GaussianHMM)
    assert a.score(X) == b.score(X)  # type: ignore[attr-defined]
    assert a.get_params() == GaussianHMM(2, "full", random_state=3, n_iter=4).get_params()


def test_saving_what_was_loaded_changes_no_byte_of_content(file: Path, tmp_path: Path) -> None:
    dbn_vae.load(file).save(tmp_path / "again.dbn")
    (a, facts_a), (b, facts_b) = storage.load(file), storage.load(tmp_path / "again.dbn")
    assert facts_a == facts_b
    assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": FORMAT + 1}, "later version of dbn_vae; upgrade"),
        ({"estimator": "NoSuchModel"}, "holds no estimator of dbn_vae, but 'NoSuchModel'"),
        ({"estimator": "SequenceEstimator"}, "holds no estimator of dbn_vae, but 'SequenceEstimator'"),
        ({"estimator": "base"}, "holds no estimator of dbn_vae, but 'base'"),
        ({"estimator": None}, "holds no estimator of dbn_vae, but None"),
    ],
    ids=["format", "unknown", "abstract", "module", "none"],
)
def test_other_content_is_refused_by_name(file: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        io.load(rewritten(file, **changes))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    storage.save(tmp_path / "checkpoint", {}, {"epoch": 3})
    with pytest.raises(ValueError, match="holds no estimator of dbn_vae"):
        io.load(tmp_path / "checkpoint")


def test_a_damaged_or_missing_file_is_refused(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[-3] ^= 1
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged"):
        io.load(file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no file"):
        io.load(file)


def test_an_unfitted_model_is_not_written(tmp_path: Path) -> None:
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match="call fit"):
        GaussianHMM(2).save(tmp_path / "x.dbn")
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_that_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    model = GaussianHMM(2, random_state=0).fit(X)
    model.set_params(verbose=object())
    with pytest.raises(TypeError, match="object"):
        model.save(tmp_path / "x.dbn")
    assert list(tmp_path.iterdir()) == []


def test_array_priors_survive(tmp_path: Path) -> None:
    prior = 1 + 3 * np.eye(2)
    model = GaussianHMM(2, transmat_prior=prior, random_state=0, n_iter=3).fit(X)
    model.save(tmp_path / "x.dbn")
    again = io.load(tmp_path / "x.dbn")
    assert np.array_equal(again.transmat_prior, prior)  # type: ignore[attr-defined]
    assert again.fit(X).score(X) == model.score(X)
