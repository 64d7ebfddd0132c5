"""The HTML: one file that fetches nothing, with a heading for everything, and no wider than a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from kvperf.cli import run
from kvperf.render.report.html import html
from tests.report.subjects import document

BROWSERS = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome")
VOID = {"meta", "br", "link", "img", "hr", "input"}
# Written into a copy of the page: what the browser made of it.
PROBE = """<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest(".scroll") && !e.matches(".scroll")) return false;
    return e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
  });
  const found = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, wide: wide.map(e => e.tagName + "." + e.className),
    fetched: performance.getEntriesByType("resource").map(e => e.name),
    shown: [...document.querySelectorAll("figure svg")].filter(e => e.getBoundingClientRect().width > 0).length,
  };
  document.body.textContent = "PROBE" + JSON.stringify(found) + "PROBE";
});
</script>"""


class Structure(HTMLParser):
    """Elements opened and closed, ids, links and headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        self.links += [str(given[name]) for name in ("href", "src", "xlink:href") if given.get(name)]
        assert not [name for name in given if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert run(["report", "--format", "html", "--output", str(path)]) == 0
    return path


def test_well_formed_and_on_its_own(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Structure(text)
    assert found.open == []
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert len(found.ids) == len(set(found.ids))
    assert {link for link in found.links if not link.startswith("#")} == set()
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert "@import" not in text
    assert {target for target in re.findall(r"url\(([^)]*)\)", text) if not target.startswith("#")} == set()


def test_headings_go_down_by_one(page: Path) -> None:
    levels = Structure(page.read_text(encoding="utf-8")).headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_light_dark_and_print(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    assert text.count("<svg") == 4  # two figures in two themes


def test_the_same_input_gives_the_same_bytes() -> None:
    assert html(document(gpu="mi300x")) == html(document(gpu="mi300x"))


def test_words_are_escaped() -> None:
    import msgspec

    found = document(gpu="mi300x")
    odd = msgspec.structs.replace(found, title=('<b>&"',))
    assert "<h1>&lt;b&gt;&amp;&quot;</h1>" in html(odd)


def _browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed: chromium-headless-shell of the system's packages will do")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    """A viewport of that width: nothing to scroll sideways but tables and figures, no message, no request."""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</head>", f"{PROBE}</head>"), encoding="utf-8")
    command = [
        _browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--blink-settings=preferredColorScheme=" + ("0" if scheme == "dark" else "1"),
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        probed.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout.split("PROBE")[-2].replace("&amp;", "&"))
    if found["width"] != width:
        pytest.skip(f"this browser makes its window {found['width']} pixels wide: chromium-headless-shell obeys")
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["fetched"] == []
    assert found["shown"] == 2
    assert "CONSOLE" not in done.stderr
