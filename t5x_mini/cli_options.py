"""The commands of `t5x-mini` and their options, for `--help` and for the parser. What they do stands in `cli.py`."""

from __future__ import annotations

import argparse
import textwrap
import typing

from t5x_mini import __version__
from t5x_mini.errors import UserError
from t5x_mini.model.config import ARCHITECTURES

COMMANDS = {
    "train": (
        "pretrain or finetune",
        "Trains what the gin files describe. A run found in MODEL_DIR is resumed.",
        """examples:
  t5x-mini train --gin_file=gin/quickstart.gin
  t5x-mini train --gin_file=gin/quickstart.gin --gin_file=gin/architectures/prefix_lm.gin --gin.MODEL_DIR=runs/prefix
  t5x-mini train --gin_file=gin/runs/pretrain.gin --gin.MODEL_DIR=runs/c4 --dry_run
  t5x-mini train --gin_file=runs/quickstart/config.gin --gin.TRAIN_STEPS=2000
  t5x-mini train --gin_file=gin/quickstart.gin --gin.MODEL_DIR=runs/check --overfit_one_batch""",
    ),
    "eval": (
        "measure a checkpoint",
        "Measures a checkpoint on its task's held-out text.",
        """examples:
  t5x-mini eval --gin_file=runs/quickstart/config.gin
  t5x-mini eval --gin_file=runs/quickstart/config.gin --gin.CHECKPOINT_PATH=runs/quickstart/checkpoints/500""",
    ),
    "glue": (
        "finetune on the GLUE benchmark and evaluate",
        "Finetunes a checkpoint on all of GLUE by gin/runs/finetune.gin (T5's recipe), and prints the table of its "
        "metrics beside chance. Writes the table, and a submission to gluebenchmark.com. Interrupted, it goes on where "
        "it was when it is run again. Gin files and bindings come after the recipe.",
        """examples:
  t5x-mini glue --checkpoint=google/flan-t5-small --output=runs/flan_t5_glue
  t5x-mini glue --checkpoint=runs/quickstart --gin_file=gin/runs/finetune_small.gin --tasks=cola,rte --seeds=3
  t5x-mini glue --checkpoint=runs/x --gin_file=gin/runs/finetune_small.gin --gin.GLUE_DIR=tiny --from_scratch""",
    ),
    "infer": (
        "write a checkpoint's answers to many inputs",
        "Writes a checkpoint's answers to a task, a text file or JSONL. Interrupted, it goes on where it was when it "
        "is run again.",
        """examples:
  t5x-mini infer --gin_file=runs/quickstart/config.gin
  t5x-mini infer --gin_file=runs/quickstart/config.gin --gin_file=gin/runs/infer.gin --gin.INFER_INPUT=questions.txt""",
    ),
    "generate": (
        "answer a text",
        "Prints a checkpoint's answer to a text; where the text has <extra_id_0>, <extra_id_1> and so on, the text "
        "with what the model wrote in their place. Without a text it answers each line of standard input.",
        """examples:
  t5x-mini generate --checkpoint=runs/quickstart "Thank you <extra_id_0> me to your party <extra_id_1> week."
  t5x-mini generate --checkpoint=google/flan-t5-small --method=beam "translate English to German: Good morning."
  t5x-mini generate --checkpoint=runs/quickstart/checkpoints/500 --method=sample --num_decodes=3 --top_p=0.9
  t5x-mini generate --checkpoint=runs/quickstart < questions.txt > answers.txt""",
    ),
    "import": (
        "make a checkpoint of Hugging Face's or T5X's one of ours",
        "Writes a run's folder with the parameters of a checkpoint that Hugging Face's transformers or T5X wrote, its "
        "vocabulary, and a config.gin that describes the model. T5X's optimiser state is taken too. (Commands that "
        "read checkpoints take such a one as it is; imported, it is read faster and needs no network.)",
        """examples:
  t5x-mini import --from=hf google/flan-t5-small --output=runs/flan_t5_small
  t5x-mini import --from=t5x gs://t5-data/pretrained_models/t5x/t5_1_1_small/checkpoint_1000000""",
    ),
    "export": (
        "write a checkpoint for Hugging Face's transformers",
        "Writes a folder that AutoModelForSeq2SeqLM.from_pretrained takes; AutoModelForCausalLM with trust_remote_code "
        "for the decoder-only architectures.",
        """examples:
  t5x-mini export --to=hf runs/quickstart exported/quickstart
  t5x-mini export --to=hf runs/quickstart/checkpoints/500 exported/quickstart --dtype=bfloat16 --push_to=me/my-t5""",
    ),
    "tasks": (
        "list the tasks and mixtures there are",
        "Lists the tasks and mixtures that come with the project and those that the gin files define, with their "
        "sources, splits and sizes where known.",
        """examples:
  t5x-mini tasks
  t5x-mini tasks --gin_file=my_text.gin""",
    ),
    "inspect": (
        "look at a task's examples, or at a batch of a run",
        "Prints examples of a task at every stage: the text, its tokens, what the objective makes of them, and what "
        "each architecture receives; and draws how long they are. Or rebuilds one batch of a run, and shows what each "
        "of its tokens costs under the nearest checkpoint.",
        """examples:
  t5x-mini inspect --task=installed_docs_span_corruption
  t5x-mini inspect --task=my_text --gin_file=my_text.gin --architecture=prefix_lm --examples=1
  t5x-mini inspect --run=runs/quickstart --step=500
  t5x-mini inspect --run=runs/quickstart --step=500 --rows=16""",
    ),
    "checkpoints": (
        "list a run's checkpoints, verify and delete them",
        "Lists a run's checkpoints with their sizes, ages and metrics. Or reads all their bytes, and says which files "
        "are not what was written. Or deletes some, after asking.",
        """examples:
  t5x-mini checkpoints runs/quickstart
  t5x-mini checkpoints runs/quickstart --verify
  t5x-mini checkpoints runs/quickstart --keep=newest,best
  t5x-mini checkpoints gs://my-bucket/runs/c4 --delete=1000,2000 --yes""",
    ),
    "status": (
        "say whether a run is alive, and how far it is",
        "Prints whether a run is alive, its step, speed and remaining time, its newest checkpoint and last error, and "
        "what its time went into, over all restarts. Works from any machine that can read the folder.",
        """examples:
  t5x-mini status runs/quickstart
  t5x-mini status gs://my-bucket/runs/c4 --json""",
    ),
    "report": (
        "write a page about runs",
        "Writes one HTML page about runs, finished or going on: where their settings differ, losses, learning rate, "
        "norms, speed and where the time went, evaluations, example answers, and the commands to do them again. It "
        "needs no network to be viewed.",
        """examples:
  t5x-mini report runs/quickstart
  t5x-mini report runs/quickstart runs/prefix_lm --output=both.html""",
    ),
    "compare": (
        "set runs side by side",
        "Prints where the configurations of runs differ, and side by side their losses, scores, speed and where their "
        "time went. The others are compared with the first.",
        """examples:
  t5x-mini compare runs/quickstart runs/prefix_lm
  t5x-mini compare runs/quickstart runs/prefix_lm runs/causal_lm""",
    ),
    "plan": (
        "compile for hardware that is not here: does it fit, and how fast would it be?",
        "Compiles a run's step for a TPU slice, on any machine and with no TPU, and prints what it takes: memory, "
        "FLOPs, collectives, an estimate of its time. Takes minutes for large models. For gpu:8xh100 and cpu only what "
        "needs no compiler is computed. MODEL_DIR need not be set.",
        """examples:
  t5x-mini plan --gin_file=gin/quickstart.gin --topology=v5e:2x2
  t5x-mini plan --gin_file=gin/runs/pretrain.gin --gin_file=gin/models/t5_1_1/xxl.gin --topology=v5e:16x16 --search
  t5x-mini plan --gin_file=gin/runs/pretrain.gin --topology=v4-32 --slices=2 --output=plan.json""",
    ),
    "vocab": (
        "train a vocabulary, or compare two",
        "Trains a SentencePiece vocabulary with T5's ids on a task or on files. Extra ids for masked spans are added "
        "when it is loaded (EXTRA_IDS). Or prints what two vocabularies make of the same text.",
        """examples:
  t5x-mini vocab --output=my_vocabulary.model --text my_text/*.txt --size=8000
  t5x-mini vocab --output=my_vocabulary.model --task=my_text --gin_file=my_text.gin --model_type=bpe --byte_fallback
  t5x-mini vocab --compare docs_8k my_vocabulary.model --sentence="The function returns nothing." """.rstrip(),
    ),
    "tokenize": (
        "turn a task's text into tokens, once",
        "Writes a task's tokens where DATA_FEED = 'tokens' reads them. Interrupted, it goes on where it was when it is "
        "run again. Several machines can each write a part of one task with --shard.",
        """examples:
  t5x-mini tokenize --task=installed_docs --output=tokens
  t5x-mini tokenize --task=my_text --gin_file=my_text.gin --split=train --workers=8
  t5x-mini tokenize --task=c4_files --gin_file=gin/tasks/c4.gin --shard=0/4""",
    ),
    "show": (
        "draw the attention masks",
        "Draws the attention masks of the three architectures side by side.",
        """examples:
  t5x-mini show masks --inputs 5 --targets 4 --output masks.png
  t5x-mini show masks --inputs 5 --targets 4 --style=lines --output masks.png""",
    ),
}

_RUN_COMMANDS = ("train", "eval", "infer")
SHARED_COMMANDS = (*_RUN_COMMANDS, "glue")  # that several processes can run as one
_DATA_COMMANDS = ("tasks", "inspect", "vocab", "tokenize")
_SEQIO_COMMANDS = (*_RUN_COMMANDS, "glue", "inspect")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` shows what is possible.")


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    parser = Parser(
        prog="t5x-mini",
        description="Pretrains, finetunes and evaluates T5-style transformers.",
        epilog="`t5x-mini <command> --help` has the options and examples. Where to begin:\n"
        "  t5x-mini train --gin_file=gin/quickstart.gin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"t5x-mini {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    commands = {
        name: choices.add_parser(
            name,
            help=summary,
            description=textwrap.fill(description, 100),
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, (summary, description, examples) in COMMANDS.items()
    }
    commands["train"].add_argument(
        "--dry_run", action="store_true", help="print the configuration and the number of parameters, and stop"
    )
    commands["train"].add_argument(
        "--overfit_one_batch",
        nargs="?",
        const=300,
        type=_count,
        metavar="STEPS",
        help="train on the first batch alone, up to so many times (300), and say whether it is learned by heart: a "
        "model that can't has a mistake in its data, masks or optimiser",
    )
    commands["train"].add_argument(
        "--allow_changes",
        type=_words,
        default=(),
        metavar="NAME,...",
        help="go on with a run although these settings are not those that its checkpoint was made with",
    )
    _add_glue_options(commands["glue"])
    _add_generate_options(commands["generate"])
    _add_import_options(commands["import"])
    _add_export_options(commands["export"])
    _add_inspect_options(commands["inspect"])
    _add_checkpoints_options(commands["checkpoints"])
    commands["status"].add_argument("run", metavar="RUN", help="the MODEL_DIR of a run")
    commands["status"].add_argument("--json", action="store_true", help="print it as one JSON object, for scripts")
    commands["compare"].add_argument("runs", nargs="*", metavar="RUN", help="the MODEL_DIR of a run; two or more")
    _add_plan_options(commands["plan"])
    _add_vocab_options(commands["vocab"])
    _add_tokenize_options(commands["tokenize"])
    _add_mask_options(commands["show"])
    _add_report_options(commands["report"])
    for name in (*_RUN_COMMANDS, "glue", "plan", *_DATA_COMMANDS):
        _add_gin_options(commands[name])
    for name in SHARED_COMMANDS:
        _add_process_options(commands[name])
    for name in _SEQIO_COMMANDS:
        _add_cache_option(commands[name])
    return parser, commands


def _add_glue_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="PATH", help="what to finetune: as for generate")
    parser.add_argument("--output", default="runs/glue", metavar="FOLDER", help="of all runs (default: runs/glue)")
    parser.add_argument(
        "--tasks",
        type=_words,
        metavar="NAME,...",
        help="of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte and wnli (default: all but wnli, as T5)",
    )
    parser.add_argument(
        "--strategy",
        choices=["multi_task", "per_task"],
        default="multi_task",
        help="one finetuning on all tasks, mixed by their sizes, or one for each (default: multi_task)",
    )
    parser.add_argument("--seeds", type=_count, default=1, metavar="N", help="repeat it with N seeds (default: 1)")
    parser.add_argument(
        "--from_scratch", action="store_true", help="train the same model from random initialisation too, to compare"
    )


def _add_generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="what to answer (default: lines of standard input)")
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="a run's folder (its newest checkpoint) or one of its checkpoints, an imported one, a Hugging Face folder "
        "or hub name, a T5X checkpoint",
    )
    parser.add_argument(
        "--method", metavar="NAME", help="greedy, sample, or beam (4 beams, if not said otherwise) (default: greedy)"
    )
    parser.add_argument("--num_decodes", type=_count, metavar="N", help="print so many answers, with their scores")
    parser.add_argument("--max_length", type=_count, metavar="N", help="tokens of an answer at most")
    parser.add_argument("--min_length", type=_index, metavar="N", help="tokens of an answer at least")
    parser.add_argument("--temperature", type=_number, metavar="T", help="of sample (default: 1)")
    parser.add_argument("--top_k", type=_index, metavar="K", help="sample draws from the K likeliest tokens")
    parser.add_argument(
        "--top_p",
        type=_number,
        metavar="P",
        help="sample draws from the likeliest tokens with this probability together",
    )
    parser.add_argument("--length_penalty", type=_number, metavar="A", help="of beam, T5's alpha (default: 0.6)")
    parser.add_argument("--seed", type=_index, metavar="N", help="of sample (default: 0)")
    parser.add_argument("--raw", action="store_true", help="print what the model wrote, not the text filled in")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="to compute in (default: float32 on CPUs, else bfloat16)"
    )
    _add_vocabulary_options(parser)


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder, a Hugging Face hub name, or a gs:// path of T5X's")
    parser.add_argument("--from", dest="kind", choices=["hf", "t5x"], help="who wrote it")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: its name, in runs)")
    parser.add_argument(
        "--step", type=_index, metavar="N", help="the step that it is at, where it doesn't say (Hugging Face's)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over an earlier import")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, help="of a decoder-only T5X checkpoint, which doesn't say it itself"
    )
    _add_vocabulary_options(parser)


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's folder (its newest checkpoint) or a checkpoint")
    parser.add_argument("path", metavar="PATH", help="the folder to write")
    parser.add_argument("--to", choices=["hf"], default="hf", help="who is to read it: Hugging Face, the default")
    parser.add_argument("--push_to", metavar="USER/NAME", help="and upload it to the Hugging Face hub")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the tensors (default: float32)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over what is in the folder")


def _add_vocabulary_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vocabulary", metavar="NAME", help="a SentencePiece model, or bytes (default: what the checkpoint says)"
    )
    parser.add_argument("--extra_ids", type=_index, metavar="N", help="ids on top of it")


def _add_checkpoints_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the MODEL_DIR of a run")
    parser.add_argument("--verify", action="store_true", help="read all bytes; the exit status is 1 if any is damaged")
    parser.add_argument(
        "--keep", type=_words, default=(), metavar="STEP,...", help="delete all but these; also newest, best"
    )
    parser.add_argument("--delete", type=_words, default=(), metavar="STEP,...", help="delete these")
    parser.add_argument(
        "--yes", action="count", default=0, help="don't ask; twice, to delete even the last good checkpoint"
    )


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", metavar="NAME", help="whose examples; `t5x-mini tasks` lists the names")
    parser.add_argument("--split", metavar="NAME", help="of the task (default: train)")
    parser.add_argument("--architecture", choices=ARCHITECTURES, help="who receives the examples (default: all three)")
    parser.add_argument("--examples", type=_count, metavar="N", help="how many to print (default: 3)")
    parser.add_argument("--output", metavar="FILE", help="the PNG of lengths to write (default: lengths.png)")
    parser.add_argument("--run", metavar="FOLDER", help="the MODEL_DIR of a run, in place of --task")
    parser.add_argument("--step", type=_index, metavar="K", help="of the run: the batch that it got in this step")
    parser.add_argument(
        "--rows", type=_count, metavar="N", help="of the batch to print, the costliest first (default: 8)"
    )


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="chips and their arrangement (v5e:4x4, v4:2x2x4, tpu7x:2x2x1), one of gcloud's accelerator types (v4-32 "
        "and v5p-32 count cores, two a chip; v5litepod-16 and v6e-8 count chips), gpu:8xh100 or cpu",
    )
    parser.add_argument(
        "--slices", type=_count, default=1, metavar="N", help="so many of them, joined by the network (default: 1)"
    )
    parser.add_argument("--step", default="train", metavar="KIND", help="train, eval or decode (default: train)")
    parser.add_argument(
        "--search", action="store_true", help="try meshes, REMAT and NUM_MICROBATCHES, and print a table, best first"
    )
    parser.add_argument("--output", metavar="FILE", help="write it as JSON too")


def _add_vocab_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="the .model file to write")
    parser.add_argument("--task", metavar="NAME", help="train on this task's text")
    parser.add_argument(
        "--text", nargs="+", action="extend", default=[], metavar="FILE", help="train on, or compare on, these files"
    )
    parser.add_argument(
        "--size",
        type=_count,
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


def _add_tokenize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, metavar="NAME", help="a task or mixture; `t5x-mini tasks` lists them")
    parser.add_argument("--split", type=_words, metavar="NAME,...", help="only these splits (default: all)")
    parser.add_argument("--workers", type=_count, metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="write only the I-th of N parts, counted from 0; N commands with the same --output write all",
    )
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: TOKENS_DIR, which is tokens)")


def _add_gin_options(parser: argparse.ArgumentParser) -> None:
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
        type=_words,
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


def _add_cache_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seqio_additional_cache_dirs",
        dest="cache_dirs",
        type=_words,
        default=(),
        metavar="FOLDER,...",
        help="where SeqIO's cache tool wrote tasks, for USE_CACHED_TASKS",
    )


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several hosts",
        "The command is started on every one. On TPU slices, under SLURM and on GKE they find one another; elsewhere:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process, which listens there")
    group.add_argument(
        "--num_processes", type=_count, metavar="N", help="processes in all; 1 runs on this host alone, wherever it is"
    )
    group.add_argument("--process_id", type=_index, metavar="K", help="of this process: 0 for the first")


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the MODEL_DIR of a run")
    parser.add_argument(
        "--output", default="report.html", metavar="FILE", help="the page to write (default: report.html)"
    )


def _add_mask_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["masks"], help="what to draw")
    parser.add_argument("--inputs", type=_count, default=5, metavar="N", help="tokens of the inputs (default: 5)")
    parser.add_argument("--targets", type=_count, default=4, metavar="N", help="tokens of the targets (default: 4)")
    parser.add_argument(
        "--style",
        choices=["matrix", "lines"],
        default="matrix",
        help="rows see columns, or nodes joined by lines as in the T5 paper (default: matrix)",
    )
    parser.add_argument("--output", default="masks.png", metavar="FILE", help="the PNG to write (default: masks.png)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text}") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"must be two whole numbers like 0/4, 1/4 up to 3/4, not {text}")
    return int(index), int(count)
