"""Every setting as data: macros of `gin/defaults.gin` and fields of the dataclasses, with type, default and meaning.

A macro's meaning is the comment above it, a field's what its class's docstring says under `Attributes:`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

import griffe

from t5x_mini import config_checks, configurables, gin_files, resources

DEFAULTS = "gin/defaults.gin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One setting.

    Attributes:
        name: as gin writes it, and its anchor: `BATCH_SIZE`, `FeedConfig.batch_size`.
        type: what it takes, in the words of the error messages.
        default: as gin writes it; empty where a run has to say.
        meaning: in Markdown; empty where nobody has written one.
        others: of a macro, the fields that it feeds; of a field, the macros that feed it.
    """

    name: str
    type: str
    default: str
    meaning: str
    others: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Settings under one heading, with what the heading says of them all."""

    title: str
    text: str
    entries: tuple[Entry, ...]


def macro_groups() -> list[Group]:
    """The macros, under the headings of `gin/defaults.gin`, in its order."""
    bindings = _default_bindings()
    values = {binding.name: binding.value for binding in bindings if not binding.owner}
    fed: dict[str, list[str]] = {}
    for binding in bindings:
        if isinstance(binding.value, gin_files.Macro) and binding.owner:
            fed.setdefault(binding.value.name, []).append(binding.label)
    names = re.compile(rf"\b({'|'.join(values)})\b")
    groups = []
    for heading, comments in _commented((resources.gin_root() / "defaults.gin").read_text()):
        title, _, rest = heading.partition(". ")
        entries = tuple(
            Entry(
                name=name,
                type=_type(*fed[name][0].split(".")),
                default=_written(values[name]),
                meaning=escaped(comment, names),
                others=tuple(fed[name]),
            )
            for name, comment in comments.items()
        )
        groups.append(Group(title=title.rstrip("."), text=escaped(rest), entries=entries))
    return groups


def field_groups() -> list[Group]:
    """The fields that gin can bind, a group a class. Where `gin/defaults.gin` binds one, its value is the default."""
    bound = {binding.label: binding.value for binding in _default_bindings()}
    groups = []
    for owner, cls in configurables.configurables().items():
        summary, meanings = documented(cls)
        entries = tuple(
            _field(owner, field, escaped(meanings.get(field.name, "")), bound) for field in _bindable(owner, cls)
        )
        groups.append(Group(title=owner, text=escaped(summary), entries=entries))
    return groups


def _field(owner: str, field: dataclasses.Field, meaning: str, bound: Mapping[str, object]) -> Entry:
    name, others = f"{owner}.{field.name}", ()
    value = bound.get(name, _default(field))
    if isinstance(value, gin_files.Macro) and value != gin_files.REQUIRED:
        value, others = bound[value.name], (value.name,)
    return Entry(name=name, type=_type(owner, field.name), default=_written(value), meaning=meaning, others=others)


def documented(cls: type) -> tuple[str, dict[str, str]]:
    """What a class's docstring says of it, and of each attribute; those of its bases count, its own go first."""
    summary, meanings = "", {}
    for base in reversed(cls.__mro__[:-1]):
        for section in griffe.Docstring(base.__doc__ or "").parse("google", warnings=False):
            if section.kind is griffe.DocstringSectionKind.attributes:
                meanings |= {attribute.name: attribute.description for attribute in section.value}
            elif section.kind is griffe.DocstringSectionKind.text and base is cls:
                summary = section.value
    return summary, meanings


def escaped(text: str, names: re.Pattern | None = None) -> str:
    """Plain text as Markdown that shows it; what stands in backticks or is indented is code already.

    Args:
        names: that are code too.
    """

    def part(plain: str) -> str:
        if plain.startswith(("`", "    ")):
            return plain
        coded = names.split(plain) if names else [plain]
        coded[::2] = [re.sub(r"([\\*_<\[])", r"\\\1", between) for between in coded[::2]]
        coded[1::2] = [f"`{name}`" for name in coded[1::2]]
        return "".join(coded)

    return "".join(map(part, re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)))


def _commented(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Headings (comments with an empty line on either side), and the comment of each macro below them."""
    heading, comments = "", {}
    for paragraph in re.split(r"\n{2,}", text.strip()):
        lines = paragraph.splitlines()
        if all(line.startswith("#") for line in lines):
            if comments:
                yield heading, comments
            heading, comments = _joined(lines), {}
        else:
            comments |= _comments_of_macros(lines)
    if comments:
        yield heading, comments


def _comments_of_macros(lines: list[str]) -> dict[str, str]:
    comments, above = {}, []
    for line in lines:
        if line.startswith("#"):
            above.append(line)
        elif name := re.match(r"([A-Z][A-Z_]*) =", line):
            comments[name[1]], above = _joined(above), []
    return comments


def _joined(comment: list[str]) -> str:
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _type(owner: str, field: str) -> str:
    words = config_checks.describe(configurables.hints(owner)[field])
    limits = config_checks.limits(owner, field)
    # What error messages write plainly is code here.
    coded = re.sub(r"(@\w+\(\)|'[\w]*'|\b(?:None|True|False)\b)", r"`\1`", words)
    return f"{coded}; {limits}" if limits else coded


def _default_bindings() -> list[gin_files.Binding]:
    return list(gin_files.read_file(DEFAULTS, [str(resources.gin_root().parent)]))


def _default(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return gin_files.REQUIRED if field.default is dataclasses.MISSING else field.default


def _written(value: object) -> str:
    if value == gin_files.REQUIRED:
        return ""
    made = type(value) in configurables.configurables().values()
    return f"`@{type(value).__name__}()`" if made else f"`{value!r}`"


def _bindable(owner: str, cls: type) -> list[dataclasses.Field]:
    """Not a task's name and the list of tasks, which are scopes, nor functions, which only Python can give."""
    hints = configurables.hints(owner)
    return [
        field
        for field in dataclasses.fields(cls)
        if not (owner in configurables.DEFINITIONS and field.name == "name")
        and (owner, field.name) != ("FeedConfig", "tasks")
        and not config_checks.takes_function(hints[field.name])
    ]
