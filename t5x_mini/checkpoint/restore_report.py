"""What is printed before a run starts from a checkpoint: the first thing to look at when a start goes wrong."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping

from t5x_mini.checkpoint import run_item
from t5x_mini.checkpoint.restore_plan import RestorePlan
from t5x_mini.checkpoint.source import Origin
from t5x_mini.tasks import vocabularies
from t5x_mini.train.run import Run

_KINDS = {"t5x_mini": "", "hf": " (Hugging Face)", "t5x": " (T5X)"}
# Tokens a batch that Mesh TensorFlow divided the loss of the public checkpoints by, by the rows of their embedding
# (T5X's docs/usage/finetune.md): T5 and T5 1.1, 2048 x 114; mT5, 1024 x 229; ByT5, 1024 x 189.
_PUBLIC_NORMALIZERS = {32128: 233472, 250112: 234496, 384: 193536}
_PUBLIC_STEPS = 1_000_000


def describe(plan: RestorePlan, run: Run) -> str:
    """The plan in a few lines: what is loaded, new and left over; how the first step compares; warnings."""
    origin, here = plan.origin, _settings(run, plan.step)
    there = {
        "learning rate": origin.learning_rate,
        "loss divided by": origin.loss_normalizing_factor,
        "dropout": origin.dropout_rate,
    }
    return "\n".join(
        [
            _headline(plan),
            f"  loaded     {_amount(plan.loaded)}",
            f"  new        {_amount(plan.new)}",
            f"  left over  {_amount(plan.left_over)}",
            f"  {'':17}{'this run':26}the checkpoint",
            *(f"  {name:17}{_text(here[name]):26}{_text(there[name])}" for name in here),
            *(f"note: {note}" for note in (*origin.notes, *_differences(plan, run))),
            *(f"warning: {warning}" for warning in _warnings(plan, run, here, there)),
        ]
    )


def _headline(plan: RestorePlan) -> str:
    origin = plan.origin
    where = f"{origin.path}{_KINDS[origin.kind]}"
    if origin.step is None:
        return f"starting from {where}, which does not say its step; the steps of this run count from {plan.step:,}"
    reset = "" if plan.step == origin.step else f"; the steps of this run count from {plan.step:,}"
    return f"starting from step {origin.step:,} of {where}{reset}; the data starts anew"


def _amount(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """`88 arrays, 1.2 MiB: encoder 20, decoder 30, optimiser 38`."""
    if not shapes:
        return "nothing"
    groups = collections.Counter(
        "optimiser" if name.startswith("opt_state/") else name.removeprefix("params/").partition("/")[0]
        for name in shapes
    )
    mebibytes = 4 * sum(math.prod(shape) for shape in shapes.values()) / 2**20
    return f"{len(shapes):,} arrays, {mebibytes:,.1f} MiB: " + ", ".join(f"{name} {n}" for name, n in groups.items())


def _differences(plan: RestorePlan, run: Run) -> list[str]:
    """What ASSIGNMENT_MAP answers for: without it, other models are refused."""
    differences = run_item.model_differences(plan.origin.model, run.config.model)
    if not differences:
        return []
    each = (f"{name} is {here} here, {there} there" for name, (there, here) in differences.items())
    return [f"this run's model is not the checkpoint's: {', '.join(each)}"]


def _settings(run: Run, step: int) -> dict[str, float | str]:
    config = run.config
    factor = config.loss.normalizing_factor
    return {
        "learning rate": float(config.schedule(step)),
        "loss divided by": 1 if factor is None else factor,
        "dropout": config.model.dropout_rate,
    }


def _text(value: float | str | None) -> str:
    if value is None:
        return "not known"
    return value if isinstance(value, str) else f"{value:.6g}"


def _warnings(plan: RestorePlan, run: Run, here: Mapping, there: Mapping) -> list[str]:
    rate, factor, dropout = (name for name in here)
    warnings = []
    if plan.origin.step is None and run.config.train.reset_step is None and _depends_on_step(run):
        warnings.append(
            f"the learning rate starts as at step 0, at {_text(here[rate])}. To go on where T5's pretraining ended, "
            f"write --gin.RESET_STEP={_PUBLIC_STEPS}"
        )
    if _has_another_vocabulary(plan.origin, run):
        warnings.append(
            f"its vocabulary is {plan.origin.vocabulary}, and this run's is another one, to which its ids mean other "
            "words (VOCABULARY, EXTRA_IDS)"
        )
    if there[rate] is not None and not math.isclose(here[rate], there[rate], rel_tol=0.01):
        warnings.append(f"the learning rate goes from {_text(there[rate])} to {_text(here[rate])} at once")
    keeps_optimizer = any(name.startswith("opt_state/") for name in plan.loaded)
    if keeps_optimizer and there[factor] is not None and here[factor] != there[factor]:
        warnings.append(
            f"the optimiser's state is that of a loss divided by {_text(there[factor])}. {_remedy(there[factor])}"
        )
    public = _public_normalizer(plan.origin)
    if keeps_optimizer and there[factor] is None and public and here[factor] != public:
        warnings.append(
            "if this is one of the public T5 checkpoints, its optimiser's state is that of a loss divided by "
            f"{public}. {_remedy(public)}"
        )
    if there[dropout] is not None and here[dropout] != there[dropout]:
        # transformers writes 0.1 into the config.json of models that were pretrained without.
        says = "its config.json says" if plan.origin.kind == "hf" else "it was trained with"
        warnings.append(f"{says} dropout {_text(there[dropout])}, here it is {_text(here[dropout])} (DROPOUT_RATE)")
    return warnings


def _remedy(factor: float | str) -> str:
    factor = _text(factor)
    return f"Write --gin.LOSS_NORMALIZING_FACTOR={factor}, or begin with a fresh one: --gin.RESET_OPTIMIZER=True"


def _depends_on_step(run: Run) -> bool:
    return float(run.config.schedule(0)) != float(run.config.schedule(_PUBLIC_STEPS))


def _has_another_vocabulary(origin: Origin, run: Run) -> bool:
    """Of a checkpoint that has its vocabulary beside it; where it has the vocabulary's id, that was checked before."""
    if (
        origin.vocabulary_id
        or not origin.vocabulary
        or not run.vocabulary
        or not vocabularies.is_here(origin.vocabulary)
    ):
        return False
    known = vocabularies.load(origin.vocabulary, extra_ids=0).fingerprint()
    return not run.vocabulary.startswith(known.get("sha256", known["library"])[:12])


def _public_normalizer(origin: Origin) -> int | None:
    """Of the public checkpoints, as far as one can be told by its size and its million steps."""
    if origin.kind == "t5x_mini" or (origin.step or 0) < _PUBLIC_STEPS:
        return None
    return _PUBLIC_NORMALIZERS.get(origin.model.vocab_size)
