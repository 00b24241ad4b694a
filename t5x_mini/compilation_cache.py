"""Compiled programs, kept for the next process: a run that is started again does not compile again."""

from __future__ import annotations

import os
import pathlib

import jax

from t5x_mini import storage

AUTO = "auto"


def enable(setting: str | None, model_dir: str) -> None:
    """Lets JAX keep what it compiles in a folder. One that JAX was told of (JAX_COMPILATION_CACHE_DIR) goes first.

    A cache that can't be reached is a warning of JAX's and no more.

    Args:
        setting: a folder, here or in a bucket; `auto` (`folder`); None: nothing is kept.
        model_dir: of the run.

    Raises:
        UserError: the folder is neither here nor in a bucket.
    """
    if setting is None or jax.config.jax_compilation_cache_dir is not None:
        return
    path = storage.to_path(folder(model_dir) if setting == AUTO else setting).expanduser()
    jax.config.update("jax_compilation_cache_dir", str(path))
    if storage.is_remote(path):  # XLA would write a cache of its own there, for GPUs, and knows no buckets
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    else:  # a file is found faster than the smallest program is compiled; JAX would leave out those of under a second
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def folder(model_dir: str) -> str:
    """In the run's folder if that is in a bucket, where the next machine looks too; or else the user's cache."""
    if storage.is_remote(model_dir):
        return str(storage.to_path(model_dir) / "compilation_cache")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return str(cache / "t5x_mini" / "compilation_cache")
