"""The page: safe whatever the data says, whole in one file, written whole or not at all."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dbn_vae import plotting
from dbn_vae.report import Section, write_report

EVIL = "<script>alert('x')</script>\" onload=\"alert(1)"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[tuple[str | None, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append((dict(attrs).get("class"), ""))

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] = (self.cells[-1][0], self.cells[-1][1] + data.strip())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    table = pd.DataFrame(
        {EVIL: [EVIL, "b"], "nats": [-1.23456, np.nan], "parameters": [12345, 7]},
        index=pd.Index(["x", "y"], name="model"),
    )
    figure = plotting.transition_matrix(np.eye(2))
    sections = [
        Section(EVIL, [EVIL], [(EVIL, figure)], [(EVIL, table)]),
        Section("second", figures=[("another picture", figure)]),
        Section("third"),
    ]
    path = tmp_path / "new" / "report.html"
    write_report(path, title=EVIL, lead=EVIL, sections=sections, facts={EVIL: EVIL})
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_from_the_data_becomes_markup(page: Page) -> None:
    assert page.named("script") == []
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.named("img")[0]["alt"] == EVIL  # unescaped by the parser: it arrived as text
    assert EVIL in [text for _, text in page.cells]


def test_the_page_fetches_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png")), f"{tag} {name}={value}"
    assert page.named("link") == []


def test_every_picture_decodes_and_fits_its_place(page: Page) -> None:
    images = page.named("img")
    assert [image["alt"] for image in images] == [EVIL, "another picture"]
    for image in images:
        source = image["src"] or ""
        png = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
        assert png.format == "PNG"
        assert int(image["width"] or 0) == pytest.approx(png.width * 92 / plotting.DPI, abs=1)


def test_numbers_stand_to_the_right_and_missing_ones_stay_empty(page: Page) -> None:
    assert [text for _, text in page.cells[:4]] == ["model", EVIL, "nats", "parameters"]
    assert [kind for kind, _ in page.cells[:4]] == [None, None, "number", "number"]
    assert page.cells[4:8] == [(None, "x"), (None, EVIL), ("number", "−1.235"), ("number", "12,345")]
    assert page.cells[10] == ("number", "")


def test_links_lead_to_their_sections(page: Page) -> None:
    targets = {attributes["id"] for attributes in page.named("section")}
    links = [link["href"] or "" for link in page.named("a")]
    assert len(links) == 3
    assert {link.removeprefix("#") for link in links} <= targets


def test_the_style_stands_in_the_page_for_light_and_dark(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, title="t", lead="l", sections=[], facts={})
    html = path.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"@import|url\(|//", html)


def test_a_failed_report_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(path, title="old", lead="", sections=[], facts={})

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, title="new", lead="", sections=[], facts={})
    assert "<h1>old</h1>" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
