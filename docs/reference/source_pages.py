"""Links that leave `docs/`, which a checkout follows and a site can't: the site gets a page with what they lead to."""

from __future__ import annotations

import pathlib
import posixpath
import re
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parents[2]
# `](target#anchor "title")`; a target with a scheme is not ours.
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(?=[)#\s])")
# They would only be noise among what a search finds.
HEAD = "---\nsearch:\n  exclude: true\nhide:\n  - navigation\n---\n"
LANGUAGES = {".gin": "python", ".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def source_pages(pages: Mapping[str, str]) -> dict[str, str]:
    """A page for each file and folder outside `docs/` that the pages, and the pages made here, lead to.

    Args:
        pages: Markdown by its path in the repository, `docs/data.md`.

    Returns:
        Markdown by its path below `docs/`; with links as they stand in the repository.
    """
    made: dict[str, str] = {}
    waiting = [target for path, text in pages.items() for target in _outside(path, text)]
    while waiting:
        path = waiting.pop()
        if page_of(path) in made or not (ROOT / path).exists():
            continue
        made[page_of(path)] = text = _page(path)
        waiting += _outside(path, text)
    return made


def page_of(path: str) -> str:
    """Where the page of a path in the repository stands below `docs/`; of those in `docs/`, the page itself."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def path_of(page: str) -> str:
    """The inverse of `page_of`."""
    if not page.startswith("source/"):
        return f"docs/{page}"
    return page.removeprefix("source/").removesuffix("/index.md").removesuffix(".md")


def for_site(page: str, text: str) -> str:
    """The page's Markdown with its links to files of the repository as links between pages of the site."""

    def link(match: re.Match) -> str:
        target = _target(path_of(page), match[1])
        if not (ROOT / target).exists():
            return match[0]
        return posixpath.relpath(page_of(target), posixpath.dirname(page))

    return LINK.sub(link, text)


def _target(path: str, link: str) -> str:
    """What a link means, as a path in the repository. Links of a folder's page are to what it holds."""
    folder = path if (ROOT / path).is_dir() else posixpath.dirname(path)
    return posixpath.normpath(posixpath.join(folder, link))


def _outside(path: str, text: str) -> Iterator[str]:
    for link in LINK.findall(text):
        target = _target(path, link)
        if not target.startswith(("docs/", "..")):
            yield target


def _page(path: str) -> str:
    file = ROOT / path
    if file.is_dir():
        names = sorted(child.name + "/" * child.is_dir() for child in file.iterdir() if child.name[0] not in "._")
        items = "\n".join(f"- [`{name}`]({name})" for name in names)
        return f"{HEAD}# `{path}/`\n\n{items}\n"
    text = file.read_text()
    if file.suffix == ".md":
        return HEAD + text
    return f"{HEAD}# `{path}`\n\n```` {LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n````\n"
