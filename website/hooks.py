"""What MkDocs calls while it builds the site (mkdocs.yml).

The site holds the project's files under their own names, so that each relative link that works on
GitHub works there, too. MkDocs knows only one folder of pages; `on_files` adds the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from website import files, reference

STYLE = "website/assets/style.css"
ASSETS = (STYLE, "website/assets/iframe-worker.js", "website/assets/iframe-worker.LICENSE")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the API to the navigation."""
    if _has_api(config):
        (section,) = (e for e in config.nav or () if isinstance(e, dict) and "Reference" in e)
        section["Reference"].append({"API": [*reference.api_navigation(_root(config))]})
    return config


def on_files(found: Files, config: MkDocsConfig) -> Files:
    """Replace the files below docs/ by all files of the site, under the project's paths."""
    root = _root(config)
    kept = [file for file in found if file.src_dir != config.docs_dir]
    made: list[File] = []
    for name, text in files.collect(root).items():
        made.append(_file(config, root, name, text))
    for name, text in reference.pages(root, _has_api(config)).items():
        made.append(_file(config, root, name, text))
    made += [_file(config, root, name, None) for name in ASSETS]
    return Files([*kept, *made])


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Change what differs between GitHub and the site.

    The search does not look into files of experiments: their rows would hide the pages.
    """
    if page.file.src_uri.startswith(f"{files.EXPERIMENTS}/"):
        page.meta["search"] = {"exclude": True}
    return files.adapt(page.file.src_uri, markdown)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path or "").resolve().parent


def _has_api(config: MkDocsConfig) -> bool:
    return "mkdocstrings" in config.plugins


def _file(config: MkDocsConfig, root: Path, name: str, text: str | None) -> File:
    if text is not None:
        return File.generated(config, name, content=text)
    return File.generated(config, name, abs_src_path=str(root / name))
