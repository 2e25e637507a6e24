"""Every example runs with --quick and prints the line that it promises."""

import re
import runpy
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]

PROMISED = {
    "01_weather_hmm.py": r"Best path: 1,0,0 \(published: 1,0,0\)",
    "02_earthquakes.py": r"3  328\.5275   328\.5275|needs earthquakes\.csv",
    "03_market_regimes.py": r"state 2: mean stay +\d+\.\d days",
    "04_digits_vae.py": r"VAE minus independent pixels: \+\d",
    "05_bouncing_ball.py": r"x_t − x_\{t-1\} alone +0\.9\d\d +0\.9\d\d",
    "06_deep_markov_model.py": r"DeepMarkovModel, 2 latents +-[01]\.\d+.+importance bound",
    "07_forecasting.py": r"HMM, 3 states +-2\.\d+ +\+0\.[12]\d\d",
    "08_streaming.py": r"the stream and filter\(\) differ by \d(\.\d)?e-1[3-6]",
    "09_missing_sensors.py": r"HMM, K = 5 +0\.\d+ +0\.[56]\d+ ",
    "10_durations.py": r"HSMM, poisson +-\d\.\d+ +\+0\.\d+ +0\.[89]",
    "11_number_of_states.py": r"chosen: aic \d, bic 3, icl \d, cv \d",
    "12_from_hmmlearn.py": r"largest difference of any parameter: \de-1\d",
    "13_partial_labels.py": r"100% of 400 frames +(0\.\d\d\d) +\1\ncounting by hand +\1",
    "14_video.py": r"VAEHMM, 2 latents a frame, 2 a film +(0\.9\d\d|1\.000)",
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_example_keeps_its_promise(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: a new one would spend most of its time on importing torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--out", "out"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        except SystemExit as end:
            assert not end.code
    plt.close("all")
    printed = capsys.readouterr().out
    assert re.search(PROMISED[name], printed), printed
    pictures = {path.name for path in Path("out").glob("*.png")}
    written = set(re.findall(r"\d\d_\w+\.png", printed))
    assert pictures == written, f"{name} says it wrote {written}, but wrote {pictures}"
