"""The commands on what there is to learn from: tasks, inspect, vocab, tokenize."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from t5x_mini.commands import option_groups
from t5x_mini.commands.command import Command
from t5x_mini.commands.option_types import count, index, shard, words
from t5x_mini.errors import UserError
from t5x_mini.model.config import ARCHITECTURES

if TYPE_CHECKING:
    from t5x_mini.feed.config import FeedConfig


def _tasks(options: argparse.Namespace) -> None:
    from t5x_mini.inspect.task_list import list_tasks

    list_tasks(_feed(options)[0])


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", metavar="NAME", help="whose examples; `t5x-mini tasks` lists the names")
    parser.add_argument("--split", metavar="NAME", help="of the task (default: train)")
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="who receives the examples (default: all three)")
    parser.add_argument("--examples", type=count, metavar="N", help="how many to print (default: 3)")
    parser.add_argument("--output", metavar="FILE", help="the PNG of lengths to write (default: lengths.png)")
    parser.add_argument("--run", metavar="FOLDER", help="the MODEL_DIR of a run, in place of --task")
    parser.add_argument("--step", type=index, metavar="K", help="of the run: the batch that it got in this step")
    parser.add_argument(
        "--rows", type=count, metavar="N", help="of the batch to print, the costliest first (default: 8)"
    )
    option_groups.add_gin(parser)
    option_groups.add_caches(parser)


def _inspect(options: argparse.Namespace) -> None:
    if options.run is not None:
        if options.step is None:
            raise UserError(f"Which batch of {options.run}? Write --step=K.")
        of_task = ("task", "split", "architecture", "examples", "output", *option_groups.GIN)
        option_groups.refuse(options, of_task, "A batch of a run is rebuilt as the run made it")
        from t5x_mini.inspect.commands import inspect_run

        inspect_run(options.run, options.step, options.rows or 8)
        return
    option_groups.refuse(options, ("rows",), "Rows are of a run's batch (--run=FOLDER --step=K)")
    if options.step is not None:
        raise UserError("--step=K is a step of a run: write --run=FOLDER too.")
    if options.task is None:
        raise UserError("Nothing to inspect. Write --task=NAME, or --run=FOLDER --step=K.")
    from t5x_mini.inspect.commands import inspect_task

    feed, _ = _feed(options, options.task)
    shown = options.split or "train", options.examples or 3, options.output or "lengths.png"
    inspect_task(feed, options.architecture, *shown)


def _add_vocab_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="the .model file to write")
    parser.add_argument("--task", metavar="NAME", help="train on this task's text")
    parser.add_argument(
        "--text", nargs="+", action="extend", default=[], metavar="FILE", help="train on, or compare on, these files"
    )
    parser.add_argument(
        "--size",
        type=count,
        metavar="N",
        help="pieces, padding, end and unknown included, extra ids not (default: 32000)",
    )
    parser.add_argument("--model_type", choices=["unigram", "bpe"], help="SentencePiece's kind (default: unigram)")
    parser.add_argument(
        "--byte_fallback", action="store_true", help="write unknown characters as bytes (256 pieces), not as unknown"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="print what these two make of --sentence or --text"
    )
    parser.add_argument("--sentence", metavar="TEXT", help="to compare on")
    option_groups.add_gin(parser)


def _vocab(options: argparse.Namespace) -> None:
    if options.compare:
        of_training = ("output", "task", "size", "model_type", "byte_fallback", *option_groups.GIN)
        option_groups.refuse(options, of_training, "--compare trains nothing")
        if options.text and options.sentence:
            raise UserError("--compare takes one of --text FILE and --sentence TEXT.")
        from t5x_mini.tasks.vocab_command import compare_command

        compare_command(*options.compare, text=tuple(options.text), sentence=options.sentence)
        return
    option_groups.refuse(options, ("sentence",), "A sentence is to compare two vocabularies on")
    if not options.output:
        raise UserError("Where to write the vocabulary? Write --output=my_vocabulary.model.")
    if bool(options.task) == bool(options.text):
        raise UserError("A vocabulary is trained on one of --task=NAME and --text FILE.")
    if options.text:
        option_groups.refuse(options, option_groups.GIN, "Files of text are read as they are")
    from t5x_mini.tasks.vocab_command import vocab_command

    vocab_command(
        options.output,
        feed=_feed(options, options.task)[0] if options.task else None,
        task=options.task,
        text=tuple(options.text),
        size=options.size or 32000,
        model_type=options.model_type or "unigram",
        byte_fallback=options.byte_fallback,
    )


def _add_tokenize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, metavar="NAME", help="a task or mixture; `t5x-mini tasks` lists them")
    parser.add_argument("--split", type=words, metavar="NAME,...", help="only these splits (default: all)")
    parser.add_argument("--workers", type=count, metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="write only the I-th of N parts, counted from 0; N commands with the same --output write all",
    )
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: TOKENS_DIR, which is tokens)")
    option_groups.add_gin(parser)


def _tokenize(options: argparse.Namespace) -> None:
    from t5x_mini.tokens.tokenize import tokenize

    feed, _ = _feed(options, options.task)
    chosen = {"splits": options.split, "workers": options.workers}
    tokenize(feed, options.task, **chosen, shard=options.shard, output=options.output)


def _feed(options: argparse.Namespace, task: str | None = None) -> tuple[FeedConfig, str]:
    from t5x_mini import config

    return config.load_feed(options.gin_file, options.bindings, options.search_paths, task)


COMMANDS = {
    "tasks": Command(
        "list the tasks and mixtures there are",
        "Lists the tasks and mixtures that come with the project and those that the gin files define, with their "
        "sources, splits and sizes where known.",
        """examples:
  t5x-mini tasks
  t5x-mini tasks --gin_file=my_text.gin""",
        option_groups.add_gin,
        _tasks,
    ),
    "inspect": Command(
        "look at a task's examples, or at a batch of a run",
        "Prints examples of a task at every stage: the text, its tokens, what the objective makes of them, and what "
        "each architecture receives; and draws how long they are. Or rebuilds one batch of a run, and shows what each "
        "of its tokens costs under the nearest checkpoint.",
        """examples:
  t5x-mini inspect --task=installed_docs_span_corruption
  t5x-mini inspect --task=my_text --gin_file=my_text.gin --architecture=prefix_lm --examples=1
  t5x-mini inspect --run=runs/quickstart --step=500
  t5x-mini inspect --run=runs/quickstart --step=500 --rows=16""",
        _add_inspect_options,
        _inspect,
    ),
    "vocab": Command(
        "train a vocabulary, or compare two",
        "Trains a SentencePiece vocabulary with T5's ids on a task or on files. Extra ids for masked spans are added "
        "when it is loaded (EXTRA_IDS). Or prints what two vocabularies make of the same text.",
        """examples:
  t5x-mini vocab --output=my_vocabulary.model --text my_text/*.txt --size=8000
  t5x-mini vocab --output=my_vocabulary.model --task=my_text --gin_file=my_text.gin --model_type=bpe --byte_fallback
  t5x-mini vocab --compare docs_8k my_vocabulary.model --sentence="The function returns nothing." """.rstrip(),
        _add_vocab_options,
        _vocab,
    ),
    "tokenize": Command(
        "turn a task's text into tokens, once",
        "Writes a task's tokens where DATA_FEED = 'tokens' reads them. Interrupted, it goes on where it was when it is "
        "run again. Several machines can each write a part of one task with --shard.",
        """examples:
  t5x-mini tokenize --task=installed_docs --output=tokens
  t5x-mini tokenize --task=my_text --gin_file=my_text.gin --split=train --workers=8
  t5x-mini tokenize --task=c4_files --gin_file=gin/tasks/c4.gin --shard=0/4""",
        _add_tokenize_options,
        _tokenize,
    ),
}
