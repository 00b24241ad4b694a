"""The options that several commands share, and how one is refused that would do nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from t5x_mini.commands.option_types import count, index, words
from t5x_mini.errors import UserError

GIN = ("gin_file", "bindings")


def add_gin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a configuration; may be repeated, the later over the earlier. Looked for in the working directory, in "
        "--gin_search_paths, and among those that come with the package (gin/quickstart.gin)",
    )
    # Taken out before argparse sees the line, for names with dots; here for --help.
    parser.add_argument(
        "--gin.NAME=VALUE",
        dest="bindings",
        action="store_true",
        help="set a macro (--gin.BATCH_SIZE=32), a field (--gin.TransformerConfig.emb_dim=256) or a task's field "
        "(--gin.my_text/PretrainingTask.field=body); may be repeated, and wins over the files. A bare word is a "
        "string. gin/defaults.gin explains every macro",
    )
    parser.add_argument(
        "--gin_search_paths",
        dest="search_paths",
        type=words,
        default=(),
        metavar="FOLDER,...",
        help="more folders to find gin files in",
    )
    parser.add_argument(
        "--no_gin_imports",
        action="store_true",
        help="refuse a configuration that names a Python module to import (MIXTURE_OR_TASK_MODULE): for files of "
        "people whose code you would not run",
    )
    parser.add_argument("--tfds_data_dir", metavar="FOLDER", help="where TensorFlow Datasets keeps its data")


def add_caches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seqio_additional_cache_dirs",
        dest="cache_dirs",
        type=words,
        default=(),
        metavar="FOLDER,...",
        help="where SeqIO's cache tool wrote tasks, for USE_CACHED_TASKS",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several hosts",
        "The command is started on every one. On TPU slices, under SLURM and on GKE they find one another; elsewhere:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process, which listens there")
    group.add_argument(
        "--num_processes",
        type=count,
        metavar="N",
        help="processes in all; 1 runs on this host alone, wherever it is",
    )
    group.add_argument("--process_id", type=index, metavar="K", help="of this process: 0 for the first")


def add_vocabulary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vocabulary", metavar="NAME", help="a SentencePiece model, or bytes (default: what the checkpoint says)"
    )
    parser.add_argument("--extra_ids", type=index, metavar="N", help="ids on top of it")


def refuse(options: argparse.Namespace, names: Sequence[str], because: str) -> None:
    """Options that would do nothing are not taken in silence."""
    for name in names:
        if getattr(options, name):
            raise UserError(f"{because}: leave out --{name.replace('bindings', 'gin.NAME=VALUE')}.")
