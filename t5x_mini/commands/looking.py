"""The commands that look: at runs (checkpoints, status, report, compare), ahead (plan), at masks (show)."""

from __future__ import annotations

import argparse

from t5x_mini.commands import option_groups
from t5x_mini.commands.command import Command
from t5x_mini.commands.option_types import count, words


def _add_checkpoints_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the MODEL_DIR of a run")
    parser.add_argument("--verify", action="store_true", help="read all bytes; the exit status is 1 if any is damaged")
    parser.add_argument(
        "--keep",
        type=words,
        default=(),
        metavar="STEP,...",
        help="delete all but these; also newest, best",
    )
    parser.add_argument("--delete", type=words, default=(), metavar="STEP,...", help="delete these")
    parser.add_argument(
        "--yes", action="count", default=0, help="don't ask; twice, to delete even the last good checkpoint"
    )


def _checkpoints(options: argparse.Namespace) -> None:
    from t5x_mini.checkpoint.checkpoints_command import checkpoints

    names = ("verify", "keep", "delete", "yes")
    checkpoints(options.run, **{name: getattr(options, name) for name in names})


def _add_status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the MODEL_DIR of a run")
    parser.add_argument("--json", action="store_true", help="print it as one JSON object, for scripts")


def _status(options: argparse.Namespace) -> None:
    from t5x_mini.report.status import status

    status(options.run, options.json)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the MODEL_DIR of a run")
    parser.add_argument(
        "--output", default="report.html", metavar="FILE", help="the page to write (default: report.html)"
    )


def _report(options: argparse.Namespace) -> None:
    from t5x_mini.report.page import report

    print(report(options.runs, options.output))


def _add_compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="the MODEL_DIR of a run; two or more")


def _compare(options: argparse.Namespace) -> None:
    from t5x_mini.report.compare import compare

    compare(options.runs)


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="chips and their arrangement (v5e:4x4, v4:2x2x4, tpu7x:2x2x1), one of gcloud's accelerator types (v4-32 "
        "and v5p-32 count cores, two a chip; v5litepod-16 and v6e-8 count chips), gpu:8xh100 or cpu",
    )
    parser.add_argument(
        "--slices",
        type=count,
        default=1,
        metavar="N",
        help="so many of them, joined by the network (default: 1)",
    )
    parser.add_argument("--step", default="train", metavar="KIND", help="train, eval or decode (default: train)")
    parser.add_argument(
        "--search", action="store_true", help="try meshes, REMAT and NUM_MICROBATCHES, and print a table, best first"
    )
    parser.add_argument("--output", metavar="FILE", help="write it as JSON too")
    option_groups.add_gin(parser)


def _plan(options: argparse.Namespace) -> None:
    from t5x_mini.plan.command import plan_command

    names = ("topology", "slices", "step", "search", "output")
    chosen = {name: getattr(options, name) for name in names}
    plan_command(options.gin_file, options.bindings, options.search_paths, **chosen)


def _add_show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["masks"], help="what to draw")
    parser.add_argument("--inputs", type=count, default=5, metavar="N", help="tokens of the inputs (default: 5)")
    parser.add_argument("--targets", type=count, default=4, metavar="N", help="tokens of the targets (default: 4)")
    parser.add_argument(
        "--style",
        choices=["matrix", "lines"],
        default="matrix",
        help="rows see columns, or nodes joined by lines as in the T5 paper (default: matrix)",
    )
    parser.add_argument("--output", default="masks.png", metavar="FILE", help="the PNG to write (default: masks.png)")


def _show(options: argparse.Namespace) -> None:
    from t5x_mini.model.mask_figure import draw_masks

    draw_masks(options.inputs, options.targets, options.style, options.output)
    print(options.output)


COMMANDS = {
    "checkpoints": Command(
        "list a run's checkpoints, verify and delete them",
        "Lists a run's checkpoints with their sizes, ages and metrics. Or reads all their bytes, and says which files "
        "are not what was written. Or deletes some, after asking.",
        """examples:
  t5x-mini checkpoints runs/quickstart
  t5x-mini checkpoints runs/quickstart --verify
  t5x-mini checkpoints runs/quickstart --keep=newest,best
  t5x-mini checkpoints gs://my-bucket/runs/c4 --delete=1000,2000 --yes""",
        _add_checkpoints_options,
        _checkpoints,
    ),
    "status": Command(
        "say whether a run is alive, and how far it is",
        "Prints whether a run is alive, its step, speed and remaining time, its newest checkpoint and last error, and "
        "what its time went into, over all restarts. Works from any machine that can read the folder.",
        """examples:
  t5x-mini status runs/quickstart
  t5x-mini status gs://my-bucket/runs/c4 --json""",
        _add_status_options,
        _status,
    ),
    "report": Command(
        "write a page about runs",
        "Writes one HTML page about runs, finished or going on: where their settings differ, losses, learning rate, "
        "norms, speed and where the time went, evaluations, example answers, and the commands to do them again. It "
        "needs no network to be viewed.",
        """examples:
  t5x-mini report runs/quickstart
  t5x-mini report runs/quickstart runs/prefix_lm --output=both.html""",
        _add_report_options,
        _report,
    ),
    "compare": Command(
        "set runs side by side",
        "Prints where the configurations of runs differ, and side by side their losses, scores, speed and where their "
        "time went. The others are compared with the first.",
        """examples:
  t5x-mini compare runs/quickstart runs/prefix_lm
  t5x-mini compare runs/quickstart runs/prefix_lm runs/causal_lm""",
        _add_compare_options,
        _compare,
    ),
    "plan": Command(
        "compile for hardware that is not here: does it fit, and how fast would it be?",
        "Compiles a run's step for a TPU slice, on any machine and with no TPU, and prints what it takes: memory, "
        "FLOPs, collectives, an estimate of its time. Takes minutes for large models. For gpu:8xh100 and cpu only what "
        "needs no compiler is computed. MODEL_DIR need not be set.",
        """examples:
  t5x-mini plan --gin_file=gin/quickstart.gin --topology=v5e:2x2
  t5x-mini plan --gin_file=gin/runs/pretrain.gin --gin_file=gin/models/t5_1_1/xxl.gin --topology=v5e:16x16 --search
  t5x-mini plan --gin_file=gin/runs/pretrain.gin --topology=v4-32 --slices=2 --output=plan.json""",
        _add_plan_options,
        _plan,
    ),
    "show": Command(
        "draw the attention masks",
        "Draws the attention masks of the three architectures side by side.",
        """examples:
  t5x-mini show masks --inputs 5 --targets 4 --output masks.png
  t5x-mini show masks --inputs 5 --targets 4 --style=lines --output masks.png""",
        _add_show_options,
        _show,
    ),
}
