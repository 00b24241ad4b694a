"""Names of settings and commands, wherever a page of the site writes them as code, lead to what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What is left as it is: links, headings and blocks of code; then a piece of code.
_PARTS = re.compile(r"<(a|h[1-6]|pre|button)\b.*?</\1>|<code>([^<]*)</code>", re.DOTALL)
_SETTING = re.compile(r"(?:--gin\.)?(?:\w+/)?([A-Z]\w*(?:\.\w+)?)\b")
_COMMAND = re.compile(r"t5x-mini (\w+)")


def targets(macros: set[str], fields: set[str], commands: set[str]) -> dict[str, str]:
    """The page, with its anchor, by name; a command is `t5x-mini train`."""
    pages = {name: f"reference/macros.html#{name}" for name in macros}
    pages |= {name: f"reference/fields.html#{name}" for name in fields}
    return pages | {f"t5x-mini {name}": f"reference/commands.html#{name}" for name in commands}


def linked(html: str, known: Mapping[str, str], to_root: str) -> str:
    """The page with links around the names that are known.

    Args:
        known: see `targets`.
        to_root: from the page to the site's root: `../`.
    """

    def part(match: re.Match) -> str:
        target = known.get(_name(match[2])) if match[2] else None
        return f'<a class="name" href="{to_root}{target}">{match[0]}</a>' if target else match[0]

    return _PARTS.sub(part, html)


def _name(code: str) -> str:
    """What a piece of code is about: of `BATCH_SIZE = 32` the macro, of `t5x-mini train --dry_run` the command."""
    if command := _COMMAND.match(code):
        return f"t5x-mini {command[1]}"
    setting = _SETTING.match(code)
    return setting[1] if setting else ""
