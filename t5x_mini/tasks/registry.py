"""Which tasks there are by name: those that come with the project, and those that a run's gin files define.

SeqIO's registry, with what was registered from Python, is another one (`feed/seqio_feed.py` looks in both). Nothing
here imports TensorFlow, so that tasks can be tokenised and read back without it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import numbers
from collections.abc import Callable, Iterable, Mapping

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import sources
from t5x_mini.tasks.definitions import Definition, Mixture, PretrainingTask, Source
from t5x_mini.tasks.objectives import Objective, SpanCorruption

# The version that today's TFDS can prepare. It reads an older one, 3.0.1 say, only where that was prepared before; then
# a task of one's own names it: `my_c4/PretrainingTask.tfds = 'c4/en:3.0.1'`.
C4 = "c4/en:3.1.0"

_INSTALLED_DOCS = {split: f"installed_docs://{split}" for split in ("train", "validation")}

_TINY_WORLD = {split: f"tiny_world://{split}" for split in ("train", "validation")}

PRETRAINING = (
    PretrainingTask(name="installed_docs", files=_INSTALLED_DOCS),
    PretrainingTask(name="installed_docs_span_corruption", files=_INSTALLED_DOCS, objective=SpanCorruption()),
    PretrainingTask(name="tiny_world", files=_TINY_WORLD),
    PretrainingTask(name="c4", tfds=C4),
    PretrainingTask(name="c4_span_corruption", tfds=C4, objective=SpanCorruption()),
)
"""Built-in pretraining tasks; those without an objective take the run's."""

# Modules with `definitions() -> list[Definition]` and `ALIASES`, short names by which their tasks can be called too.
_SUPERVISED = ("glue", "super_glue", "squad", "translation", "summarization")


_Count = Callable[[str], int] | None


def definitions(feed: FeedConfig) -> dict[str, Definition]:
    """Every definition of a run by name: the built-in ones, then those in `feed.tasks`.

    A pretraining task without an objective gets the run's, `feed.objective`.

    Raises:
      UserError: two of them have one name.
    """
    found: dict[str, Definition] = {}
    for definition in (*_built_in(feed), *feed.tasks):
        if definition.name in found:
            raise UserError(
                f"Two tasks are named {definition.name!r}: results and caches could not tell them apart. A name that "
                "comes with the project cannot be given again; choose another scope in the gin file."
            )
        found[definition.name] = _with_objective(definition, feed.objective)
    return found


def aliases() -> dict[str, str]:
    """Short names by which built-in tasks can be called: `{'cola': 'glue_cola_v002', ...}`."""
    return {alias: name for module in _supervised() for alias, name in module.ALIASES.items()}


def is_defined(name: str, feed: FeedConfig) -> bool:
    """Whether `find` finds it. If not, only SeqIO's registry can know the name."""
    return name in definitions(feed) or name in aliases()


def find(name: str, feed: FeedConfig) -> Definition:
    """The definition of that name or alias.

    Raises:
      UserError: there is none, with the closest names.
    """
    known = definitions(feed)
    if name in known:
        return known[name]
    if (full_name := aliases().get(name)) is not None:
        return known[full_name]
    raise UserError(f"There is no task or mixture named {name!r}. {closest_names(name, (*known, *aliases()))}")


def closest_names(name: str, known: Iterable[str]) -> str:
    """'The closest names: …', or all of them where none is close."""
    known = sorted(set(known))
    closest = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"The closest names: {', '.join(closest)}." if closest else f"There are {', '.join(known)}."


def components(name: str, feed: FeedConfig, count: Callable[[str], int] | None = None) -> dict[str, float]:
    """The tasks of a mixture with their rates, those of mixtures in it included; of a task, itself with rate 1.

    A mixture inside another one hands its rate on to its tasks in proportion to theirs, as in SeqIO. Rates need not sum
    to 1; those of 0 are kept, for tasks that are evaluated and not trained on.

    Args:
      count: number of training examples of a task, for a mixture without explicit rates. None: they are counted in its
        source.

    Raises:
      UserError: a name is unknown, a rate is no number from 0 up, all are 0, or a mixture contains itself.
    """
    return _components(find(name, feed), feed, count, ())


def _built_in(feed: FeedConfig) -> list[Definition]:
    return [*PRETRAINING, *(definition for module in _supervised() for definition in _definitions_of(module, feed))]


def _supervised() -> list:
    # Imported when asked for: these modules come after this one in the direction of the arrows.
    return [importlib.import_module(f"t5x_mini.tasks.{name}") for name in _SUPERVISED]


def _definitions_of(module, feed: FeedConfig) -> list[Definition]:
    return module.definitions(feed.glue_dir) if module.__name__.endswith(".glue") else module.definitions()


def _with_objective(definition: Definition, objective: Objective) -> Definition:
    if isinstance(definition, PretrainingTask) and definition.objective is None:
        return dataclasses.replace(definition, objective=objective)
    return definition


def _components(definition: Definition, feed: FeedConfig, count: _Count, inside: tuple[str, ...]) -> dict[str, float]:
    if isinstance(definition, Source):
        return {definition.name: 1.0}
    if definition.name in inside:
        raise UserError(f"The mixture {definition.name!r} contains itself: {' > '.join((*inside, definition.name))}.")
    inside = (*inside, definition.name)
    parts = {name: _components(_part(name, definition, feed), feed, count, inside) for name in definition.tasks}
    parts = _without(definition, parts, feed)
    flat: dict[str, float] = {}
    for name, rate in _rates(definition, parts, count or functools.partial(_count, feed, definition.limit)).items():
        total = sum(parts[name].values())
        for task, share in parts[name].items():
            flat[task] = flat.get(task, 0.0) + (rate * share / total if share else 0.0)
    return flat


def _without(mixture: Mixture, parts: Mapping[str, Mapping[str, float]], feed: FeedConfig) -> dict[str, dict]:
    """`parts` without the tasks that the mixture leaves out; entries of which nothing remains are gone."""
    known = {task for part in parts.values() for task in part}
    left_out: set[str] = set()
    for name in mixture.without:
        found = known & set(_components(_part(name, mixture, feed), feed, lambda task: 1, ()))
        if not found:
            raise UserError(
                f"{mixture.name}/Mixture.without names {name!r}, which the mixture doesn't hold. It holds "
                f"{', '.join(sorted(known))}."
            )
        left_out |= found
    kept = {name: {task: rate for task, rate in part.items() if task not in left_out} for name, part in parts.items()}
    return {name: part for name, part in kept.items() if part}


def _part(name: str, mixture: Mixture, feed: FeedConfig) -> Definition:
    try:
        return find(name, feed)
    except UserError as error:
        raise UserError(
            f"The mixture {mixture.name!r} names {name!r}: {error} A task that is registered in Python is mixed there, "
            "with seqio.MixtureRegistry.add."
        ) from None


def _rates(mixture: Mixture, parts: Mapping[str, Mapping[str, float]], count: Callable[[str], int]) -> dict[str, float]:
    """The rates of a mixture's own entries: as they are given, or by the numbers of training examples."""
    if isinstance(mixture.tasks, Mapping):
        _refuse_proportions(mixture)
        rates = {name: rate for name, rate in mixture.tasks.items() if name in parts}
    else:
        _check_proportions(mixture)
        # What is only evaluated, at rate 0, has no training examples to count.
        counts = {name: sum(count(task) for task, rate in part.items() if rate) for name, part in parts.items()}
        rates = {name: _tempered(number, mixture) for name, number in counts.items()}
    wrong = {name: rate for name, rate in rates.items() if not isinstance(rate, numbers.Real) or not rate >= 0}
    if wrong or not sum(rates.values()):
        raise UserError(
            f"The mixture {mixture.name!r} has the rates {rates}. Each must be a number from 0 up, and one of them "
            f"more than 0: {mixture.name}/Mixture.tasks = {{'one_task': 0.7, 'another': 0.3}}."
        )
    return rates


def _tempered(count: int, mixture: Mixture) -> float:
    """Raffel et al. 2020, section 3.5.2; SeqIO's `mixing_rate_num_examples` in the same order."""
    return (count if mixture.limit is None else min(count, mixture.limit)) ** (1 / mixture.temperature)


def _refuse_proportions(mixture: Mixture) -> None:
    if mixture.limit is not None or mixture.temperature != 1:
        raise UserError(
            f"{mixture.name}/Mixture.limit and temperature are for rates that follow the numbers of examples; "
            f"{mixture.name}/Mixture.tasks gives the rates itself. Leave these out, or the rates: "
            f"{mixture.name}/Mixture.tasks = {list(mixture.tasks)}."
        )


def _check_proportions(mixture: Mixture) -> None:
    if mixture.limit is not None and mixture.limit < 1:
        raise UserError(f"{mixture.name}/Mixture.limit must be 1 or more, or None; found {mixture.limit}.")
    if not mixture.temperature > 0:
        raise UserError(
            f"{mixture.name}/Mixture.temperature must be above 0; found {mixture.temperature}. 1 is proportional."
        )


_counts: dict[str, int] = {}  # a corpus is read through once for its size, not at every question for a rate


def _count(feed: FeedConfig, limit: int | None, task: str) -> int:
    definition = find(task, feed)
    key = f"{definition} {limit}"
    if key not in _counts:
        _counts[key] = sources.count(definition, "train", limit=limit)
    return _counts[key]
