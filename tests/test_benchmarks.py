"""Every benchmark starts; and with -m thorough its --quick runs to the end, where its data are at hand."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text())
QUICK = [name for name in SCRIPTS if "quick" in (FOLDER / name).read_text()]
NEEDS_DATA = {"behaviour.py", "imputation.py", "music.py", "video.py"}


def test_all_of_them_are_found() -> None:
    assert {"engine.py", "music.py", "recovery.py"} | NEEDS_DATA <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_starts(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that it imports is there, and it says what it does."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert not end.value.code
    assert f"usage: {name}" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize("name", QUICK)
def test_its_quick_version_runs_to_the_end(name: str, tmp_path: Path) -> None:
    if name in NEEDS_DATA and "DBN_VAE_DATA" not in os.environ:
        pytest.skip("DBN_VAE_DATA does not say where its data are")
    run = subprocess.run(
        [sys.executable, str(FOLDER / name), "--quick"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert re.search(r"^\|---|^removed +method", run.stdout, re.MULTILINE), "no table"
