"""The pages that are made when the site is built, as Markdown: settings, commands, the Python API."""

from __future__ import annotations

import argparse
import textwrap

import entries

from t5x_mini.commands.parser import COMMANDS, make_parser

# What a user would import, by page: the title, and the modules with the members that are shown (None: all public ones).
API = {
    "load": (
        "Load a model and ask it",
        {
            "t5x_mini.inference": ["load"],
            "t5x_mini.evaluate.predictor": None,
            "t5x_mini.evaluate.id_predictor": None,
        },
    ),
    "configuration": (
        "Configuration",
        {
            "t5x_mini.config": ["load", "load_feed", "operative_config"],
            "t5x_mini.configurables": ["RunConfig"],
            "t5x_mini.errors": None,
        },
    ),
    "tasks": (
        "Tasks, objectives, vocabularies",
        {
            "t5x_mini.tasks.definitions": None,
            "t5x_mini.tasks.registry": None,
            "t5x_mini.tasks.objectives": None,
            "t5x_mini.tasks.objective_mixtures": None,
            "t5x_mini.tasks.noise": None,
            "t5x_mini.tasks.vocabularies": None,
            "t5x_mini.evaluate.metrics": None,
        },
    ),
    "feed": (
        "Feeds and batches",
        {"t5x_mini.feed.config": None, "t5x_mini.feed.feeds": None, "t5x_mini.feed.batch": None},
    ),
    "model": (
        "The model",
        {
            "t5x_mini.model.config": None,
            "t5x_mini.model.masks": None,
            "t5x_mini.model.transformer": None,
            "t5x_mini.model.attention": None,
            "t5x_mini.model.layers": None,
            "t5x_mini.model.decoding": None,
            "t5x_mini.model.scoring": None,
        },
    ),
    "train": (
        "Training",
        {
            "t5x_mini.train.config": None,
            "t5x_mini.train.loss": None,
            "t5x_mini.train.step": None,
            "t5x_mini.train.state": None,
            "t5x_mini.train.optimizers": None,
            "t5x_mini.train.schedules": None,
        },
    ),
    "parallel": (
        "Devices",
        {
            "t5x_mini.parallel.config": None,
            "t5x_mini.parallel.mesh": None,
            "t5x_mini.parallel.sharding": None,
            "t5x_mini.parallel.partitioner": None,
        },
    ),
    "checkpoints": (
        "Checkpoints",
        {
            "t5x_mini.checkpoint.config": None,
            "t5x_mini.checkpoint.manager": None,
            "t5x_mini.checkpoint.source": None,
        },
    ),
}


def all_pages() -> dict[str, str]:
    """Markdown by the page's path below `docs/`."""
    pages = {"reference/macros.md": macros(), "reference/fields.md": fields(), "reference/commands.md": commands()}
    return pages | {f"reference/api/{name}.md": api(*page) for name, page in API.items()}


def macros() -> str:
    intro = (
        "The settings that have a name of their own, with the words of `gin/defaults.gin`. Set one in a gin file, "
        "`BATCH_SIZE = 32`, or on the command line, `--gin.BATCH_SIZE=32`. What has no macro is "
        "[a field of a class](fields.md)."
    )
    return _settings("Settings: macros", intro, entries.macro_groups())


def fields() -> str:
    intro = (
        "Every field that gin can bind, class by class: `TransformerConfig.emb_dim = 768`, or on the command line "
        "`--gin.TransformerConfig.emb_dim=768`. Where a macro feeds a field, set "
        "[the macro](macros.md). Tasks and objectives take a name in front, `my_text/PretrainingTask.field = 'body'`."
    )
    return _settings("Settings: fields", intro, entries.field_groups())


def commands() -> str:
    """Each command as its `--help` says it."""
    _, parsers = make_parser()
    parts = [
        "# Commands",
        "What `t5x-mini <command> --help` says. Every setting is `--gin.NAME=VALUE` on the command line: "
        "[macros](macros.md) and [fields](fields.md).",
    ]
    for name, command in COMMANDS.items():
        lines = textwrap.dedent(command.examples.removeprefix("examples:\n"))
        parts += [f"## `t5x-mini {name}` {{ #{name} }}", f"*{entries.escaped(command.summary)}*{{ .summary }}"]
        parts += [entries.escaped(command.description), f"```bash\n{lines}\n```"]
        for group in parsers[name]._action_groups:
            actions = [action for action in group._group_actions if action.dest != "help"]
            if actions and group.description:
                parts.append(f"**{group.title.capitalize()}.** {entries.escaped(group.description)}")
            parts += [_option(name, action) for action in actions]
    return "\n\n".join(parts) + "\n"


def api(title: str, modules: dict[str, list[str] | None]) -> str:
    parts = [f"# {title}"]
    for module, members in modules.items():
        parts.append(f"::: {module}")
        if members:
            parts[-1] += "\n    options:\n      members: [" + ", ".join(members) + "]"
    return "\n\n".join(parts) + "\n"


def _settings(title: str, intro: str, groups: list[entries.Group]) -> str:
    parts = [f"# {title}", intro]
    for group in groups:
        parts += [f"## {group.title}", group.text]
        parts += [_setting(entry) for entry in group.entries]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(entry: entries.Entry) -> str:
    facts = [f"**{entry.type}**", f"default {entry.default}" if entry.default else "has to be set"]
    if entry.others:
        verb = "feeds" if entry.name.isupper() else "set by"
        facts.append(f"{verb} {', '.join(f'`{other}`' for other in entry.others)}")
    meaning = entry.meaning[:1].upper() + entry.meaning[1:]
    return f"### `{entry.name}` {{ #{entry.name} }}\n\n{' · '.join(facts)}\n{{ .facts }}\n\n{meaning}"


def _option(command: str, action: argparse.Action) -> str:
    (name,) = action.option_strings or [""]
    anchor = (name or f"--{action.dest}").partition("=")[0]
    return f"`{f'{name} {_values(action)}'.strip()}`{{ #{command}{anchor} }}\n:   {entries.escaped(action.help)}"


def _values(action: argparse.Action) -> str:
    """What is written behind an option, or for an argument: `[STEPS]`, `TEXT ...`, `{masks}`."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    value = action.metavar or "{" + ",".join(action.choices) + "}"
    return {"?": f"[{value}]", "*": f"[{value} ...]", "+": f"{value} ..."}.get(action.nargs, value)
