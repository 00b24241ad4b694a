"""Mixtures of objectives, UL2 among them.

`OBJECTIVES` are all that a gin file can choose, the single ones of `objectives.py` included:

    OBJECTIVE = @SpanCorruption()
    SpanCorruption.mean_span = 5.0
"""

from __future__ import annotations

import dataclasses

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.tasks.noise import EOS_ID
from t5x_mini.tasks.objectives import (
    CausalLM,
    Deshuffling,
    IidDenoising,
    Objective,
    PrefixLM,
    SpanCorruption,
    Vocabulary,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveMixture(Objective):
    """Several objectives, each for its share of the windows.

    All get windows of one length, so that text is used whole and once. Where an objective makes no inputs, they are EOS
    alone, as in T5's `lm`; where some have `loss_weights`, the others' are 1 up to EOS.

    Examples come in groups of `examples_per_row`. A group's members stand evenly spaced on the scale of the rates, so
    that each objective has its share of every group, up to one example, and its exact share on average.

    Attributes:
        objectives: of any kind, mixtures too.
        rates: of the objectives, in proportion to each other. None: all the same.
        examples_per_row: with PACK, how many examples share a row of TASK_FEATURE_LENGTHS: windows are so long that any
            group fits. One objective's inputs are long where another's targets are, so groups leave less padding.
    """

    objectives: tuple[Objective, ...]
    rates: tuple[float, ...] | None = None
    examples_per_row: int = 1

    def __post_init__(self):
        if not self.objectives:
            raise UserError("ObjectiveMixture.objectives is empty. Write for example (@SpanCorruption(), @PrefixLM()).")
        _check_rates("ObjectiveMixture", self.rates, len(self.objectives), "one for each of its objectives")
        _check_examples_per_row(self)

    @property
    def features(self) -> tuple[str, ...]:
        made = {feature for objective in self._used for feature in objective.features}
        return tuple(feature for feature in ("inputs", "targets", "loss_weights") if feature in made)

    @property
    def _used(self) -> list[Objective]:
        """The objectives whose rate is not 0."""
        return [objective for objective, rate in zip(self.objectives, self._rates, strict=True) if rate]

    @property
    def _rates(self) -> tuple[float, ...]:
        return self.rates or (1.0,) * len(self.objectives)

    def lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        return _largest([self._lengths_of(objective, length, vocabulary) for objective in self._used])

    def row_lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        sizes = [self._lengths_of(objective, length, vocabulary) for objective in self._used]
        groups = _possible_groups(self._bounds, self.examples_per_row)
        return _largest([{key: sum(sizes[member][key] for member in group) for key in sizes[0]} for group in groups])

    def extra_ids(self, length: int) -> int:
        return max(objective.extra_ids(length) for objective in self._used)

    def _lengths_of(self, objective: Objective, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        sizes = objective.lengths(length, vocabulary)
        return {feature: sizes.get(feature, 1) for feature in self.features if feature != "loss_weights"}

    @property
    def _bounds(self) -> np.ndarray:
        """Where each used objective's share of the interval from 0 to 1 ends."""
        rates = np.array([rate for rate in self._rates if rate], float)
        return np.cumsum(rates[:-1]) / rates.sum()

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        n, length = tokens.shape
        self._check(length, vocabulary)
        chosen = _choose(n, self._bounds, self.examples_per_row, rng)
        sizes = self.lengths(length, vocabulary)
        sizes["loss_weights"] = sizes["targets"]
        batch = {feature: np.zeros((n, sizes[feature]), np.int32) for feature in self.features}
        for number, objective in enumerate(self._used):
            rows = np.flatnonzero(chosen == number)
            examples = objective(tokens[rows], rng, vocabulary)
            examples.setdefault("inputs", np.full((len(rows), 1), EOS_ID))
            examples.setdefault("loss_weights", examples["targets"] != 0)
            for feature, array in batch.items():
                array[rows, : examples[feature].shape[1]] = examples[feature]
        return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted(Objective):
    """An objective whose inputs begin with a text, for which room is kept: nothing is trimmed.

    Attributes:
        objective: makes the rest of the inputs.
        prompt: the text.
    """

    objective: Objective
    prompt: str

    def __post_init__(self):
        if "inputs" not in self.objective.features:
            raise UserError(f"Prompted.objective must make inputs to stand in front of; found {self.objective!r}.")

    @property
    def features(self) -> tuple[str, ...]:
        return self.objective.features

    def lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        sizes = self.objective.lengths(length, vocabulary)
        return sizes | {"inputs": sizes["inputs"] + len(vocabulary.encode(self.prompt))}

    def extra_ids(self, length: int) -> int:
        return self.objective.extra_ids(length)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        examples = self.objective(tokens, rng, vocabulary)
        prompt = np.array(vocabulary.encode(self.prompt), np.int32)
        prompt = np.broadcast_to(prompt, (len(tokens), len(prompt)))
        return examples | {"inputs": np.concatenate([prompt, examples["inputs"]], axis=1)}


UL2_DENOISERS: tuple[tuple[str, Objective], ...] = (
    ("R", SpanCorruption(mean_span=3.0, noise_density=0.15)),
    ("R", SpanCorruption(mean_span=8.0, noise_density=0.15)),
    ("S", PrefixLM()),
    ("X", SpanCorruption(mean_span=3.0, noise_density=0.5)),
    ("X", SpanCorruption(mean_span=8.0, noise_density=0.5)),
    ("X", SpanCorruption(mean_span=64.0, noise_density=0.15)),
    ("X", SpanCorruption(mean_span=64.0, noise_density=0.5)),
)
"""UL2's seven denoisers with their kinds: regular, sequential and extreme (Tay et al. 2022, table 1)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UL2(Objective):
    """UL2's mixture of denoisers (Tay et al. 2022): a mode token tells the model which kind of noise it faces.

        [NLU] a b S0 d e S1 EOS   R: short spans, as in T5
        [S2S] a b EOS             S: continue the text
        [NLG] a S0 e S1 EOS       X: long spans or many

    In UL2's published code mode tokens push the end of full inputs out of the row, and each block of documents goes to
    one denoiser with windows of its own length. Here room is kept for the mode token, and all windows have one length.

    Attributes:
        rates: of the seven denoisers of `UL2_DENOISERS`, in that order (R, R, S, X, X, X, X), in proportion to each
            other. UL2's published code mixes them evenly.
        mode_tokens: texts in front of the inputs of R, S and X, written in the vocabulary's pieces. None: no modes.
        random_roll: see `SpanCorruption`. Without it the single span of (64, 15 %) is always a short window's end.
        examples_per_row: see `ObjectiveMixture`.
    """

    rates: tuple[float, ...] = (1.0,) * len(UL2_DENOISERS)
    mode_tokens: tuple[str, ...] | None = ("[NLU]", "[S2S]", "[NLG]")
    random_roll: bool = False
    examples_per_row: int = 1

    def __post_init__(self):
        _check_rates("UL2", self.rates, len(UL2_DENOISERS), "for the denoisers R, R, S, X, X, X, X")
        _check_examples_per_row(self)
        modes = self.mode_tokens
        if modes is not None and (len(modes) != 3 or len(set(modes)) != 3 or not all(modes)):
            raise UserError(
                f"UL2.mode_tokens must be three different texts, for R, S and X, or None; found {modes!r}. UL2 has "
                "('[NLU]', '[S2S]', '[NLG]')."
            )

    def lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        return self._mixture.lengths(length, vocabulary)

    def row_lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        return self._mixture.row_lengths(length, vocabulary)

    def extra_ids(self, length: int) -> int:
        return self._mixture.extra_ids(length)

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        self._check(tokens.shape[1], vocabulary)
        return self._mixture(tokens, rng, vocabulary)

    def _check(self, length: int, vocabulary: Vocabulary) -> None:
        super()._check(length, vocabulary)
        modes = self.mode_tokens or ()
        if len({tuple(vocabulary.encode(mode)) for mode in modes}) < len(modes):
            raise UserError(
                f"UL2.mode_tokens {modes!r} are not told apart by the vocabulary, which doesn't know their characters. "
                "Write texts that it knows, or None."
            )

    @property
    def _mixture(self) -> ObjectiveMixture:
        denoisers = [(kind, self._rolled(denoiser)) for kind, denoiser in UL2_DENOISERS]
        if self.mode_tokens is not None:
            modes = dict(zip("RSX", self.mode_tokens, strict=True))
            denoisers = [(kind, Prompted(objective=one, prompt=modes[kind])) for kind, one in denoisers]
        objectives = tuple(denoiser for _, denoiser in denoisers)
        return ObjectiveMixture(objectives=objectives, rates=self.rates, examples_per_row=self.examples_per_row)

    def _rolled(self, denoiser: Objective) -> Objective:
        if isinstance(denoiser, SpanCorruption):
            return dataclasses.replace(denoiser, random_roll=self.random_roll)
        return denoiser


OBJECTIVES: tuple[type[Objective], ...] = (
    *(SpanCorruption, IidDenoising, Deshuffling, PrefixLM, CausalLM),
    *(UL2, ObjectiveMixture),
)


def _choose(n: int, bounds: np.ndarray, group: int, rng: np.random.Generator) -> np.ndarray:
    """Which objective each of `n` examples gets: `int[n]`.

    A systematic sample: the points `(i + offset) / n` stand evenly on the scale of the rates; so do those of a group.
    """
    groups = -(-n // group)
    offsets = (rng.permutation(groups) + rng.random()) / max(groups, 1)
    points = (np.arange(group) + offsets[:, None]) / group
    return rng.permuted(np.searchsorted(bounds, points, side="right"), axis=1).reshape(-1)[:n]


def _possible_groups(bounds: np.ndarray, group: int) -> np.ndarray:
    """All that `_choose` can make of one group, up to order: `int[groups, group]`."""
    # Between two of these offsets no point of a group passes a bound.
    turns = np.unique(np.concatenate([[0.0], bounds * group % 1, [1.0]]))
    between = (turns[:-1] + turns[1:]) / 2
    return np.searchsorted(bounds, (np.arange(group) + between[:, None]) / group, side="right")


def _largest(sizes: list[dict[str, int]]) -> dict[str, int]:
    return {feature: max(size[feature] for size in sizes) for feature in sizes[0]}


def _check_rates(name: str, rates: tuple[float, ...] | None, count: int, which: str) -> None:
    if rates is not None and (len(rates) != count or min(rates) < 0 or not 0 < sum(rates) < float("inf")):
        raise UserError(f"{name}.rates must be {count} numbers, {which}, none negative and not all 0; found {rates!r}.")


def _check_examples_per_row(objective: UL2 | ObjectiveMixture) -> None:
    if objective.examples_per_row < 1:
        raise UserError(
            f"{type(objective).__name__}.examples_per_row must be 1 or more; found {objective.examples_per_row}."
        )
