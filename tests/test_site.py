"""The documentation site, built as `make docs` does, and looked at in a browser."""

import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Browser
from helpers import ROOT, Patch
from mkdocs.exceptions import Abort

from harness.experiment.schema import schema
from website import files, reference, results
from website.__main__ import build_site

PHONE, DESKTOP = 390, 1400
LOADED = re.compile(r"<(?:script|img|link)[^>]+?(?:src|href)=\"(?:https?:)?//[^\"]+\"")


def without_results(root: Path, name: str) -> str:
    """Return a page; pages of results keep their headings alone, as rows take their time."""
    text = (root / name).read_text()
    if not name.startswith(f"{files.EXPERIMENTS}/"):
        return text
    return "\n\n".join(line for line in text.splitlines() if line.startswith("#"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, with one package of the API."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "read_page", without_results)
        patch.setattr(reference, "packages", lambda root: ["harness.distill"])
        build_site(folder)
    return folder


def test_pages_of_the_project_and_of_the_code_are_there(site: Path) -> None:
    pages = {str(p.relative_to(site)) for p in site.rglob("*.html")}
    expected = {p.relative_to(ROOT) for p in ROOT.glob("docs/*.md") if p.stem != "README"}
    assert {str(p.with_suffix(".html")) for p in expected} <= pages
    assert {"index.html", "docker/index.html", "experiments/results/digits.html"} <= pages
    text = (site / "reference/api/harness.distill.html").read_text()
    assert 'id="harness.distill.stage1.stage1_loss"' in text


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Links may lead away; a link of the kind `canonical` loads nothing either."""
    found = {tag for p in site.rglob("*.html") for tag in LOADED.findall(p.read_text())}
    assert not found


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(files, "collect", lambda root, made: {"README.md": "# A\n[b](gone.md)\n"})
    monkeypatch.setattr(reference, "packages", lambda root: [])
    with pytest.raises(Abort):
        build_site(tmp_path)


def test_files_that_pages_link_to(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("[a](docs/a.md) [b](https://x/b.md) `[c](c.md)`\n")
    (tmp_path / "docs/a.md").write_text("[y](../e.yaml) ![p](p.png) [l](../b.jsonl#L2)\n")
    (tmp_path / "e.yaml").write_text("name: e\n")
    (tmp_path / "docs/p.png").touch()
    (tmp_path / "m.png").touch()
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n{"b": [2]}\n')
    (tmp_path / "unlinked.md").touch()
    found = files.collect(tmp_path, {"x/made.md": "[m](../m.png)\n"})
    pages = {"README.md", "docs/a.md", "e.yaml.md", "x/made.md"}
    assert {name for name in found if name.endswith(".md")} == pages
    assert {name for name, text in found.items() if text is None} == {
        "e.yaml",
        "docs/p.png",
        "m.png",
    }
    assert found["b.lines/2.json"] == '{\n"b": [2]\n}\n'
    adapted = files.adapt("docs/a.md", found["docs/a.md"] or "", {})
    assert adapted == "[y](../e.yaml.md) ![p](p.png) [l](../b.lines/2.json)\n"
    listing = files.adapt("e.yaml.md", found["e.yaml.md"] or "", {})
    assert "```yaml\nname: e\n```" in listing and "](e.yaml)" in listing


def test_markers_go_and_folded_parts_are_markdown() -> None:
    text = "<!-- table:x -->\n| a |\n<!-- /table:x -->\n<details><summary>b</summary>\n"
    expected = '\n| a |\n\n<details markdown="1"><summary>b</summary>\n'
    assert files.adapt("a.md", text, {}) == expected


def test_a_link_shows_the_title_of_a_page() -> None:
    titles = files.titles({"docs/a.md": "# All of A\ntext", "docs/p.png": None})
    text = "[a.md](a.md#b), [the page](a.md), [docs/a.md](../docs/a.md), [b.md](b.md)"
    expected = "[All of A](a.md#b), [the page](a.md), [All of A](../docs/a.md), [b.md](b.md)"
    assert files.adapt("docs/c.md", text, titles) == expected


def test_every_experiment_with_numbers_has_a_page() -> None:
    made = results.pages(ROOT)
    bundles = (ROOT / "experiments/results").glob("*.jsonl")
    names = {p.stem for p in bundles if not p.stem.endswith(".replication")}
    assert {f"results/{name}.md" for name in names} <= made.keys()
    assert names <= results.QUESTIONS.keys(), "write down what it asks"
    page = made["results/digits-cross.md"]
    assert page.startswith(f"# {results.QUESTIONS['digits-cross']}\n")
    assert "(../docs/figures/digits-cross/overlap.png)" in page
    block = (ROOT / "docs/digits.md").read_text().partition("<!-- summary:digits-cross -->\n")[2]
    assert block.partition("\n\n")[0] in page, "the table of docs/digits.md"
    assert "](../experiments/results/digits-cross.md)" in page
    assert "two sets of seeds: 0 confirmed, 0 not confirmed, 0 reversed, 3 open." in page
    assert "ReFilled (tuple) with 96.3 % (overlap all)" in page
    assert page.endswith("- Trained by `harness run experiments/digits_cross.yaml`\n")


def test_every_package_has_a_page_of_the_api() -> None:
    packages = {f"harness.{p.parent.name}" for p in (ROOT / "harness").glob("*/__init__.py")}
    pages = reference.api_pages(ROOT)
    assert {f"reference/api/{name}.md" for name in packages} <= pages.keys()
    assert "::: harness.trained.model\n" in pages["reference/api/harness.trained.md"]
    assert "::: harness.api\n" in pages["reference/api/harness.api.md"]


def test_pages_of_commands_fields_and_files() -> None:
    made = reference.pages(ROOT, with_api=False)
    commands = made["reference/commands.md"]
    assert "## `harness run`" in commands and "`--max-time" in commands
    assert "`manifest.json`" in made["reference/store.md"]
    fields = made["reference/fields.md"]
    section = fields.partition("## `stage2`")[2].partition("\n## ")[0]
    assert "| `tau2` | `2.0` | number, above 0 |" in section
    assert '| `centers` | `"global"` | `"global"`, `"local"` |' in section
    assert "| `network` |  | [`mobile_net`](#mobilenetoptions) or " in fields
    assert "\n## `network: resnet` {#resnetoptions}\n" in fields
    assert set(re.findall(r"\]\(#(\w+)\)", fields)) <= set(re.findall(r"\{#(\w+)\}", fields))
    every = {
        f"| `{name}` |" for d in schema()["$defs"].values() for name in d.get("properties", ())
    }
    assert {row for row in every if row not in fields} == set()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server that refuses no request while it is busy, as one with room for 5 would."""

    request_queue_size = 128


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Yield the address at which the files of a folder are served."""
    handler = functools.partial(Quiet, directory=str(folder))
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_in_a_browser(site: Path) -> None:
    """Pages fit, navigation leads on, and no request leaves the machine."""
    with served(site) as address, Browser(address) as browser:
        page = browser.open(f"{address}/404.html")
        for name in ("reference/fields", "docs/method"):
            page.goto(f"{address}/{name}.html")
            for width in (PHONE, DESKTOP):
                page.set_viewport_size({"width": width, "height": 900})
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} pixels wide of {width}"
        page.get_by_role("link", name="ReFilled harness").first.click()
        page.wait_for_url("**/index.html")
        page.get_by_role("link", name="Results").first.click()
        page.wait_for_url("**/results/index.html")
        assert browser.foreign == []


def test_the_search_finds_a_heading_by_its_text(site: Path) -> None:
    with served(site) as address, Browser(address) as browser:
        page = browser.open(f"{address}/404.html")
        page.get_by_text("Type to start searching").wait_for(state="attached")
        # Key by key: the script reads the field after a key, and not after other changes.
        page.locator(".md-search__input").press_sequentially("semi-hard")
        found = page.locator(".md-search-result__link", has_text="Stage 1: the same neighbours")
        found.first.wait_for(state="attached")
        assert "docs/method.html" in found.first.get_attribute("href")
        assert browser.foreign == []
