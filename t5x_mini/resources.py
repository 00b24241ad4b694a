"""Finds the files that come with the project: `gin/` and `data/`."""

from __future__ import annotations

import pathlib

_PACKAGE = pathlib.Path(__file__).resolve().parent


def _folder(name: str) -> pathlib.Path:
    # An installed wheel carries the folder inside the package. `pip install -e .` ignores that mapping and leaves it
    # where the checkout has it, beside the package.
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def gin_root() -> pathlib.Path:
    """The folder `gin/` that ships with the project."""
    return _folder("gin")


def data_path(relative: str) -> str:
    """The path of a file or folder that ships in `data/`; `data_path("vocabularies")`.

    Raises FileNotFoundError when the installation lacks it.
    """
    path = _folder("data") / relative
    if not path.exists():
        raise FileNotFoundError(f"{path} should have been installed with t5x_mini: install it again")
    return str(path)
