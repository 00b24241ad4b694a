"""Starting a run from any checkpoint: which array comes from where, checked before one is read, then put in place.

Names here are those on disk (`layout.py`). A parameter is taken from the one of its name, or as `ASSIGNMENT_MAP` says;
its optimiser state goes with it. What comes from nowhere is made as in a new run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.checkpoint import layout, run_item
from t5x_mini.checkpoint.source import Origin, Source
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig
from t5x_mini.train import param_names
from t5x_mini.train.run import Run, first_step
from t5x_mini.train.state import TrainState

Shape = tuple[int, ...]
_OF_VOCABULARY = ("token_embedder/embedding", "logits_dense/kernel")


@dataclasses.dataclass(frozen=True)
class RestorePlan:
    """Where the arrays of a run come from.

    Attributes:
        origin: the checkpoint.
        step: that the run starts at.
        taken: this run's name of each array to the checkpoint's; None: made afresh.
        shapes: of this run's arrays.
        left_over: the checkpoint's arrays that this run doesn't take, with their shapes.
    """

    origin: Origin
    step: int
    taken: Mapping[str, str | None]
    shapes: Mapping[str, Shape]
    left_over: Mapping[str, Shape]

    @property
    def loaded(self) -> dict[str, Shape]:
        return {name: self.shapes[name] for name, source in self.taken.items() if source is not None}

    @property
    def new(self) -> dict[str, Shape]:
        return {name: self.shapes[name] for name, source in self.taken.items() if source is None}


def make_plan(source: Source, run: Run) -> RestorePlan:
    """Decides what a run takes from a checkpoint.

    Raises:
        UserError: where the model, the vocabulary, a shape or the optimiser's state does not fit; for rules of
            ASSIGNMENT_MAP that match nothing or name nothing.
    """
    train, origin = run.config.train, source.origin
    shapes = _shapes(params=run.shapes.params, opt_state=run.shapes.opt_state)
    taken = _take_params(source, shapes, run.config.model, train.assignment_map, run.vocabulary)
    taken |= _take_optimizer(source, shapes, {} if train.reset_optimizer else taken)
    used = {*taken.values(), "step", "rng"}
    left = {name: shape for name, shape in source.shapes.items() if name not in used}
    return RestorePlan(origin, first_step(train, origin), taken, shapes, left)


def restore(plan: RestorePlan, source: Source, run: Run) -> TrainState:
    """The state that the plan describes, on the devices. No more than one stacked parameter at a time is on the host.

    The random key is the run's own.
    """
    leaves, structure = jax.tree.flatten(run.shapes)
    shardings = jax.tree.leaves(run.shardings)
    parts = [[plan.taken.get(name) for name in names] for names in layout.names_on_disk(run.shapes)]
    fresh = iter(run.create_leaves([None in names for names in parts]))
    state = [
        _joined(source, names, shape, sharding, next(fresh) if None in names else None)
        for names, shape, sharding in zip(parts, leaves, shardings, strict=True)
    ]
    step = jax.make_array_from_callback((), run.shardings.step, lambda _: np.int32(plan.step))
    return dataclasses.replace(jax.tree.unflatten(structure, state), step=step)


def load_params(
    source: Source,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    shardings: Mapping[str, jax.sharding.Sharding],
    model: TransformerConfig,
    vocabulary: str | None = None,
) -> dict[str, jax.Array]:
    """A checkpoint's parameters on the devices, whatever trained them, one stacked parameter at a time.

    Args:
        shapes: of every parameter, by name in memory (`transformer.param_shapes(model)`).
        shardings: and where each goes.
        model: what the checkpoint has to hold.
        vocabulary: `feeds.vocabulary_id` of what will be read with it; None: not checked.

    Raises:
        UserError: where it holds another model, or was trained on another vocabulary.
    """
    taken = _take_params(source, _shapes(params=dict(shapes)), model, None, vocabulary)
    return {
        name: _joined(source, [taken[f"params/{part}"] for part in param_names.of_layers(name, shape)], shape, sharding)
        for (name, shape), sharding in zip(shapes.items(), (shardings[name] for name in shapes), strict=True)
    }


# Which array from where


def _shapes(**parts: Mapping[str, Any]) -> dict[str, Shape]:
    """Shapes on disk of parts of a state."""
    return layout.shapes_by_name(parts)


def _take_params(
    source: Source,
    shapes: Mapping[str, Shape],
    model: TransformerConfig,
    rules: Sequence[tuple[str, str | None]] | None,
    vocabulary: str | None,
) -> dict[str, str | None]:
    """Where each parameter comes from; `rules` None: from the one of its name, and nothing can be done about it."""
    params = [name for name in shapes if name.startswith("params/")]
    there = {name for name in source.shapes if name.startswith("params/")}
    taken = {name: name for name in params} if not rules else _assign(params, there, rules)
    path = source.origin.path
    if any(name.endswith(_OF_VOCABULARY) and taken[name] for name in params):
        run_item.check_vocabulary(path, source.origin.vocabulary_id, vocabulary)
    # Rules say what to do where the models differ; without any, the models have to be the same.
    differences = {} if rules else run_item.model_differences(source.origin.model, model)
    reshaped = {
        name: (source.shapes[other], shapes[name])
        for name, other in taken.items()
        if other in there and source.shapes[other] != shapes[name]
    }
    if differences or reshaped:
        raise UserError(_misfit(path, differences, reshaped, may_choose=rules is not None))
    missing = [name for name, other in taken.items() if other is not None and other not in there]
    if missing:
        lacks = f"The checkpoint {path} lacks {len(missing)} of this run's parameters, {_bare(missing[0])} for one."
        if rules is None:
            raise UserError(f"{lacks} Is it complete?")
        raise UserError(
            f"{lacks} Let them begin afresh with a regex that matches them and no name: "
            f"ASSIGNMENT_MAP = {_afresh(missing[:1])}"
        )
    return taken


def _assign(names: Iterable[str], there: set[str], rules: Sequence[tuple[str, str | None]]) -> dict[str, str | None]:
    """Names in the checkpoint by this run's, as T5X's `apply_assignment_map` finds them: the first match counts."""
    compiled = [(param_names.pattern("ASSIGNMENT_MAP", regex), replacement) for regex, replacement in rules]
    taken, used = {}, set()
    for name in names:
        found = ((i, match) for i, (regex, _) in enumerate(compiled) if (match := regex.fullmatch(_bare(name))))
        rule, match = next(found, (None, None))
        used.add(rule)
        taken[name] = name if match is None else _expanded(match, compiled[rule][1], there)
    for i, (regex, _) in enumerate(rules):
        if i not in used:
            raise UserError(
                f"ASSIGNMENT_MAP has {regex!r}, which matches no parameter of this run that an earlier regex doesn't. "
                f"It has to match the whole name. Close to it: {param_names.near(regex, map(_bare, taken))}."
            )
    return taken


def _expanded(match: re.Match, replacement: str | None, there: set[str]) -> str | None:
    if replacement is None:
        return None
    try:
        name = f"params/{match.expand(replacement)}"
    except (re.error, IndexError) as error:
        raise UserError(
            f"ASSIGNMENT_MAP has {replacement!r} for {match.re.pattern!r}, which cannot be filled in: {error}."
        ) from None
    if name not in there:
        raise UserError(
            f"ASSIGNMENT_MAP takes {match.string} from {_bare(name)}, which the checkpoint doesn't have. Close to it: "
            f"{param_names.near(_bare(name), map(_bare, there))}."
        )
    return name


def _take_optimizer(
    source: Source, shapes: Mapping[str, Shape], params: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The optimiser state of each parameter that is taken, where the checkpoint has some of it."""
    wanted = _state_by_param(name for name in shapes)
    there = _state_by_param(source.shapes)
    taken: dict[str, str | None] = {}
    missing, extra, reshaped = [], [], []
    for param, leaves in wanted.items():
        other = (params.get(f"params/{param}") or "").removeprefix("params/")
        held = there.get(other, {})
        taken |= {name: held.get(leaf) for leaf, name in leaves.items()}
        if not held:
            continue
        missing += [name for leaf, name in leaves.items() if leaf not in held]
        extra += [name for leaf, name in held.items() if leaf not in leaves]
        reshaped += [
            f"{name}, {source.shapes[held[leaf]]} in the checkpoint, {shapes[name]} in this run"
            for leaf, name in leaves.items()
            if leaf in held and source.shapes[held[leaf]] != shapes[name]
        ]
    if missing or extra or reshaped:
        raise UserError(
            f"The optimiser state in the checkpoint {source.origin.path} is not of this run's optimiser:\n"
            f"{run_item.array_differences(missing, extra, reshaped)}\n"
            "Go back to the optimiser that saved it (RunConfig.optimizer in its run's config.gin), or begin with a "
            "fresh state: --gin.RESET_OPTIMIZER=True"
        )
    return taken


def _state_by_param(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """`{'encoder/.../kernel': {'v_row': 'opt_state/encoder/.../kernel/v_row', ...}}`."""
    by_param: dict[str, dict[str, str]] = {}
    for name in names:
        if name.startswith("opt_state/"):
            param, _, leaf = name.removeprefix("opt_state/").rpartition("/")
            by_param.setdefault(param, {})[leaf] = name
    return by_param


def _misfit(
    path: str, differences: Mapping[str, tuple], reshaped: Mapping[str, tuple[Shape, Shape]], *, may_choose: bool
) -> str:
    lines = [f"The checkpoint {path} does not fit this run's model:"]
    pairs = [*differences.items(), *((_bare(name), shapes) for name, shapes in list(reshaped.items())[:3])]
    lines += [f"    {name}: {there} in the checkpoint, {here} in this run" for name, (there, here) in pairs]
    if len(reshaped) > 3:
        lines.append(f"    and {len(reshaped) - 3} more parameters have other shapes")
    embedding = next((shapes for name, shapes in reshaped.items() if name.endswith(_OF_VOCABULARY[0])), None)
    rows = differences.get("vocab_size") or (embedding and (embedding[0][0], embedding[1][0]))
    of_vocabulary = rows and rows[0] != rows[1]
    if of_vocabulary:
        lines.append(
            f"The vocabulary has to be the checkpoint's (VOCABULARY, EXTRA_IDS). Where it is, and leaves rows of the "
            f"checkpoint unused, write --gin.TransformerConfig.vocab_size={rows[0]}"
        )
    if not of_vocabulary or differences.keys() - {"vocab_size"}:
        lines.append(
            "Choose the checkpoint's sizes: a file in gin/models, the config.gin of the run that made it, or "
            "TransformerConfig's settings one by one"
        )
    if may_choose and reshaped:
        more = " and so on" if len(reshaped) > 3 else ""
        lines.append(f"Or let what does not fit begin afresh: ASSIGNMENT_MAP = {_afresh(list(reshaped)[:3])}{more}")
    elif may_choose:
        lines.append(
            "Or, if it is meant, take each parameter from the one of its name: ASSIGNMENT_MAP = ((r'(.*)', r'\\1'),)"
        )
    return "\n".join(lines)


def _afresh(names: Sequence[str]) -> str:
    return repr(tuple((_bare(name), None) for name in names))


def _bare(name: str) -> str:
    return name.removeprefix("params/")


# Reading


def _joined(
    source: Source,
    names: Sequence[str | None],
    shape: jax.ShapeDtypeStruct,
    sharding: jax.sharding.Sharding,
    fresh: jax.Array | None = None,
) -> jax.Array:
    """One array in memory out of its layers (or itself, alone) in a checkpoint; layers that are None are `fresh`'s."""
    if not any(names):
        return fresh
    host = np.zeros(shape.shape, shape.dtype)
    layers = host.reshape(len(names), *source.shapes[next(filter(None, names))])  # a view
    for layer, name in enumerate(names):
        if name is not None:
            layers[layer] = source.read(name)
    loaded = jax.make_array_from_callback(shape.shape, sharding, lambda index: host[index])
    if fresh is None:
        return loaded
    kept = np.asarray([name is not None for name in names]).reshape(-1, *[1] * (len(shape.shape) - 1))
    return jax.device_put(_where(kept, loaded, fresh), sharding)


_where = jax.jit(jnp.where)  # of the layers of one array after another, many of one shape
