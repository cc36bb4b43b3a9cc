"""The book: it is built without a warning, every link leads somewhere, and no page asks a network for anything."""

import re
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from shared import ROOT

sys.path.insert(0, str(ROOT / "notebooks"))

import book
from versions import sources

MISSING = [name for name in book.NEEDED if find_spec(name) is None]
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
TOLD = {"canonical", "search", "author", "index", "next", "prev"}  # links that a browser does not follow by itself


class Page(HTMLParser):
    """What a page leads to, what it loads, and the anchors in it."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.led, self.loaded, self.anchors = path, [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.led.append(given["href"])
        if (link := given.get(LOADS.get(tag))) and given.get("rel") not in TOLD:
            self.loaded.append(link)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built site."""
    if MISSING:
        pytest.skip(f"the book needs {', '.join(MISSING)}: pip install -r requirements-dev.txt")
    out = tmp_path_factory.mktemp("book")
    book.book(out)
    return out / "html"


@pytest.fixture(scope="module")
def pages(html):
    """All pages by their place."""
    return {path: Page(path) for path in sorted(html.rglob("*.html")) if "_static" not in path.parts}


def test_every_notebook_is_a_page_beside_the_ones_that_explain(html, pages):
    names = {path.relative_to(html).as_posix() for path in pages}
    assert {"index.html", "how_to.html", "glossary.html", "results.html", "search.html"} <= names
    assert {f"notebooks/{path.stem}.html" for path in sources()} <= names


def test_every_link_leads_to_a_page_and_to_a_place_in_it(pages):
    for path, page in pages.items():
        for link in page.led:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "mailto"), f"{path.name}: {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"


def test_no_page_loads_anything_from_a_network_and_all_it_loads_is_there(html, pages):
    for path, page in pages.items():
        for link in page.loaded:
            parts = urlsplit(link)
            assert parts.scheme in ("", "data"), f"{path.name} loads {link}"
            if not parts.scheme:
                assert (path.parent / unquote(parts.path)).resolve().exists(), f"{path.name} loads {link}"
    sheets = [path.read_text(encoding="utf-8", errors="ignore") for path in html.rglob("*.css")]
    assert sheets and not any(re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet) for sheet in sheets)


def test_its_search_finds_words_of_every_notebook(html):
    index = (html / "searchindex.js").read_text(encoding="utf-8")
    assert all(f"notebooks/{path.stem}" in index for path in sources())


def test_mathematics_is_set_without_a_script(html):
    for path in sources():
        page = (html / f"notebooks/{path.stem}.html").read_text(encoding="utf-8")
        assert ("$$" in path.read_text(encoding="utf-8")) == ('display="block"' in page)
        assert "mathjax" not in re.sub("mathjax_ignore", "", page.lower())


def test_what_gives_an_answer_away_is_folded(html):
    for path in sources():
        page = (html / f"notebooks/{path.stem}.html").read_text(encoding="utf-8")
        source = path.read_text(encoding="utf-8")
        assert page.count("<summary>Read on") == len(re.findall(r"^# %% \[markdown\].*after", source, re.MULTILINE))
        assert page.count("tag_hide-output") == source.count("reveal(")
        assert page.count("tag_hide-input") == len(re.findall(r"tags=\[.*(solution|guess)", source))
