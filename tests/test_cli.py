"""The command line: exit status, and what a job leaves behind."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import dbn_vae
from dbn_vae.cli import main
from dbn_vae.inference import backends

ROOT = Path(dbn_vae.__file__).parent.parent


def stops(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and everything printed, of arguments that argparse itself answers."""
    with pytest.raises(SystemExit) as stop:
        main(argv)
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert stops(["--version"], capsys) == (0, f"dbn-vae {dbn_vae.__version__}\n")


@pytest.mark.parametrize(
    "argv", [[], ["no-such-job"], ["demo", "--states", "2"], ["demo", "--updates", "many"]]
)
def test_wrong_arguments_exit_2_with_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, said = stops(argv, capsys)
    assert status == 2
    assert "usage: dbn-vae" in said


def test_help_names_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = stops(["--help"], capsys)
    assert status == 0
    assert all(job in said for job in ("demo", "vae", "doctor"))


def test_doctor_says_which_backends_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"dbn_vae {dbn_vae.__version__}" in said
    assert f"inference backends: {', '.join(backends.available)}" in said


def test_python_dash_m_is_the_same_program() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "dbn_vae", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, f"dbn-vae {dbn_vae.__version__}\n")


def test_a_wrong_data_folder_exits_2_and_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBN_VAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DBN_VAE_DATA", raising=False)
    arguments = [
        "vae",
        "--data",
        "mnist",
        "--data-dir",
        str(tmp_path / "nowhere"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("dbn-vae")
    assert "nowhere" in said


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dbn_vae.jobs import doctor

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", interrupted)
    assert main(["doctor"]) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_the_demo_leaves_a_report_tables_and_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dbn_vae.report")
    out = tmp_path / "demo"
    status = main(["demo", "--states", "2", "2", "--updates", "5", "--out", str(out)])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "FAIL" not in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    states = pd.read_csv(out / "states.csv")
    assert states["state"].isin([0, 1]).all()
    assert (states["p0"] + states["p1"]).round(6).eq(1).all()
    comparison = pd.read_csv(out / "comparison.csv")
    assert comparison["per frame"].round(9).is_monotonic_decreasing  # ties keep the order given
    models = sorted((out / "models").iterdir() if (out / "models").is_dir() else out.glob("*.dbn"))
    ours = ~comparison["model"].str.startswith("hmmlearn")
    assert len(models) == ours.sum()
    for path in models:
        assert dbn_vae.load(path).n_states in (1, 2), path.name
