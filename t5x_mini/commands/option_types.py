"""What an option takes besides text: argparse's `type=`, with errors that say what to write."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text}")
    return int(text)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text}") from None


def words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"must be two whole numbers like 0/4, 1/4 up to 3/4, not {text}")
    return int(index), int(count)


def step_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(",")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise argparse.ArgumentTypeError(
            f"must be the first and the last of some steps, counted from 1, like 10,13 or 10,10, not {text}"
        )
    return int(first), int(last)
