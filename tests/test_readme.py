"""The README keeps its word: its Python runs, and its two commands are there for a machine to read."""

import re
from pathlib import Path

import pytest
from test_docs import ROOT, run_blocks

README = ROOT / "README.md"


def command(mark: str) -> str:
    """The text of the fenced block whose fence stands right under a mark, <!-- run --> for one."""
    found = re.findall(
        rf"^<!-- {mark} -->\n```\w*\n(.*?)\n```$",
        README.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert len(found) == 1, f"README marks {len(found)} blocks with <!-- {mark} -->"
    return str(found[0])


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks(README) == 3


@pytest.mark.parametrize(("mark", "part"), [("run", "dbn-vae demo"), ("test", "pytest")])
def test_command_is_one_line_from_nothing(mark: str, part: str) -> None:
    line = command(mark)
    assert "\n" not in line
    assert line.startswith("python3 -m venv ") and part in line


def test_model_table_names_what_the_package_exports() -> None:
    import dbn_vae

    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    classes = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[-2])}
    assert classes == set(dbn_vae.__all__) - {
        "HMM",
        "Sequences",
        "compare",
        "from_hmmlearn",
        "load",
        "select",
        "to_hmmlearn",
        "uncertainty",
    }
