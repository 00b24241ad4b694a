"""T5-style transformers in JAX: pretrain, finetune and evaluate encoder-decoders, prefix LMs and causal LMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t5x_mini.inference import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, imported when it is asked for: the command line and data workers want none of JAX."""
    if name == "load":
        from t5x_mini.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
