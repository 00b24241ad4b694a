"""What mkdocs calls while it builds the site: adds the pages that are made, and sets the links."""

from __future__ import annotations

import cross_links
import entries
import pages
import source_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from t5x_mini.commands.parser import COMMANDS

ERRORS = "troubleshooting.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    written = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for path, text in {**pages.all_pages(), **source_pages.source_pages(written)}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    if page.file.src_uri == ERRORS:
        page.meta["search"] = {"boost": 3}  # who searches for the words of an error wants it explained
    made_from_repository = not page.file.src_uri.startswith("reference/")
    return source_pages.for_site(page.file.src_uri, markdown) if made_from_repository else markdown


def on_page_content(html: str, page: Page, **_: object) -> str:
    return cross_links.linked(html, _known(), "../" * page.file.dest_uri.count("/"))


def _known() -> dict[str, str]:
    macros = {entry.name for group in entries.macro_groups() for entry in group.entries}
    fields = {entry.name for group in entries.field_groups() for entry in group.entries}
    return cross_links.targets(macros, fields, set(COMMANDS))
