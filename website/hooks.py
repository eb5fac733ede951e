"""Hooks that MkDocs calls while it builds the site (mkdocs.yml).

The site holds the project's files under their own names, so that each relative link that works on
GitHub works there, too. MkDocs knows only one folder of pages; `on_files` adds the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website import files, reference, results

ASSETS = tuple(
    f"website/assets/{name}" for name in ("style.css", "iframe-worker.js", "iframe-worker.LICENSE")
)
TITLES = "titles"  # kept in the configuration between two calls


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that no file holds to the navigation."""
    root = _root(config)
    _section(config, "Results")[:0] = results.navigation(root)
    if _has_api(config):
        _section(config, "Reference").append({"API": [*reference.api_navigation(root)]})
    return config


def on_files(found: Files, config: MkDocsConfig) -> Files:
    """Replace the files below docs/ by all files of the site, under the project's paths."""
    root = _root(config)
    made = results.pages(root) | reference.pages(root, _has_api(config))
    collected = files.collect(root, made) | dict.fromkeys(ASSETS)
    config.extra[TITLES] = files.titles(collected)
    kept = [file for file in found if file.src_dir != config.docs_dir]
    return Files([*kept, *(_file(config, root, *pair) for pair in collected.items())])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Change what differs between GitHub and the site.

    The search does not look into files of experiments: their rows would hide the pages.
    """
    if page.file.src_uri.startswith(f"{files.EXPERIMENTS}/"):
        page.meta["search"] = {"exclude": True}
    return files.adapt(page.file.src_uri, markdown, config.extra[TITLES])


def _section(config: MkDocsConfig, name: str) -> list[Any]:
    """Return the entries of a section of the navigation."""
    (section,) = (e[name] for e in config.nav or () if isinstance(e, dict) and name in e)
    entries: list[Any] = section
    return entries


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path or "").resolve().parent


def _has_api(config: MkDocsConfig) -> bool:
    return "mkdocstrings" in config.plugins


def _file(config: MkDocsConfig, root: Path, name: str, text: str | None) -> File:
    if text is not None:
        return File.generated(config, name, content=text)
    return File.generated(config, name, abs_src_path=str(root / name))
