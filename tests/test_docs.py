"""Every page of the documentation: its Python runs, block after block, and the files it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_blocks(page: Path) -> int:
    """Execute a page's Python blocks in order; a failure shows the page and its line.  Returns how many there were."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for block in blocks:
        above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * above + block[1], str(page), "exec"), namespace)
    return len(blocks)


def files_named(page: Path) -> set[Path]:
    """Targets of relative links and pictures, and paths of the repository in code letters."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    code = re.findall(r"`((?:benchmarks|data|dbn_vae|docs|examples|tests|\.ci)/[\w./-]*)`", text)
    return {page.parent / link for link in links} | {ROOT / path for path in code}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_files_named_exist(page: Path) -> None:
    missing = sorted(str(path.relative_to(page.parent)) for path in files_named(page) if not path.exists())
    assert not missing, f"{name_of(page)} names files that do not exist: {missing}"


def test_index_leads_to_every_page() -> None:
    reached = {path.resolve() for path in files_named(ROOT / "docs/index.md")}
    assert set(PAGES) - {ROOT / "docs/index.md"} <= reached
