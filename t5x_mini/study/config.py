"""What a study is: a grid of pretrainings that differ in named choices, each finetuned in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from t5x_mini.errors import UserError

_EXAMPLE = "Study.axes = {'architecture': {'encoder-decoder': (), 'causal LM': ('ARCHITECTURE=causal_lm',)}}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Cells, one for each combination of choices, that are pretrained and finetuned with several seeds.

    Where settings are listed, each is a gin file (its name ends in `.gin`) or a binding (`'BATCH_SIZE=32'`), the later
    over the earlier, and bindings over files.

    Attributes:
        title: of the page.
        pretraining: settings of every pretraining.
        finetuning: settings of every finetuning, which starts from the pretraining's newest checkpoint; none: there is
            no finetuning, and losses are compared.
        axes: the choices by axis, `{'architecture': {'causal LM': ('ARCHITECTURE=causal_lm',)}}`: settings of a
            pretraining over the common ones. The first choice of every axis makes the cell that the others are matched
            with.
        exceptions: settings of single cells over all others: `{'language modelling, causal LM': (...)}`.
        seeds: each cell is trained with RANDOM_SEED 0 up to this number.
        match: `flops` gives each cell as many steps as cost what TRAIN_STEPS of the first cell do, counted by
            `train/flops.py`; `steps` gives all TRAIN_STEPS.
        compare_losses_along: axes whose choices leave what is to be predicted as it is, so that held-out losses compare
            too; those of cells among the `exceptions` don't.
        reference: somebody else's scores of the cells, `{'denoising, causal LM': {'GLUE': 74.7}}`; the first score of
            each is what orderings are compared by.
        reference_name: whose: `'Raffel et al. 2020, table 2'`.
        notes: what the table says about single cells.
    """

    title: str = "Study"
    pretraining: tuple[str, ...]
    finetuning: tuple[str, ...] = ()
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    exceptions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    seeds: int = 3
    match: Literal["flops", "steps"] = "flops"
    compare_losses_along: tuple[str, ...] = ()
    reference: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    reference_name: str = ""
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Raises UserError for axes without choices, and where something is said of a cell that isn't there."""
        if not self.axes or not all(self.axes.values()):
            raise UserError(
                f"Study.axes must have an axis, and each axis a choice; found {dict(self.axes)}. Write {_EXAMPLE}."
            )
        names = cell_names(self.axes)
        for axis in self.compare_losses_along:
            if axis not in self.axes:
                raise UserError(
                    f"Study.compare_losses_along names {axis!r}, which is no axis. There is {', '.join(self.axes)}."
                )
        for field in ("exceptions", "reference", "notes"):
            for name in getattr(self, field):
                if name not in names:
                    raise UserError(
                        f"Study.{field} speaks of a cell {name!r}, which the axes don't make. They make "
                        f"{'; '.join(names)}."
                    )


def cell_names(axes: Mapping[str, Mapping[str, tuple[str, ...]]]) -> list[str]:
    """Every combination of choices, the last axis the quickest: `['denoising, encoder-decoder', ...]`."""
    names = [""]
    for choices in axes.values():
        names = [f"{name}, {choice}" if name else choice for name in names for choice in choices]
    return names
