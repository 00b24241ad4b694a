"""The commands on a checkpoint, of ours or of others: generate, import, export."""

from __future__ import annotations

import argparse

from t5x_mini.commands import option_groups
from t5x_mini.commands.command import Command
from t5x_mini.commands.option_types import count, index, number
from t5x_mini.errors import UserError
from t5x_mini.model.config import ARCHITECTURES


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
    parser.add_argument("--num_decodes", type=count, metavar="N", help="print so many answers, with their scores")
    parser.add_argument("--max_length", type=count, metavar="N", help="tokens of an answer at most")
    parser.add_argument("--min_length", type=index, metavar="N", help="tokens of an answer at least")
    parser.add_argument("--temperature", type=number, metavar="T", help="of sample (default: 1)")
    parser.add_argument("--top_k", type=index, metavar="K", help="sample draws from the K likeliest tokens")
    parser.add_argument(
        "--top_p",
        type=number,
        metavar="P",
        help="sample draws from the likeliest tokens with this probability together",
    )
    parser.add_argument("--length_penalty", type=number, metavar="A", help="of beam, T5's alpha (default: 0.6)")
    parser.add_argument("--seed", type=index, metavar="N", help="of sample (default: 0)")
    parser.add_argument("--raw", action="store_true", help="print what the model wrote, not the text filled in")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="to compute in (default: float32 on CPUs, else bfloat16)"
    )
    option_groups.add_vocabulary(parser)


def _generate(options: argparse.Namespace) -> None:
    if options.checkpoint is None:
        raise UserError("Which model is to answer? Write --checkpoint=runs/quickstart.")
    from t5x_mini.evaluate.generate import generate

    chosen = {name: value for name, value in vars(options).items() if name not in ("command", "bindings", "began")}
    generate(chosen.pop("checkpoint"), chosen.pop("texts"), **chosen)


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a folder, a Hugging Face hub name, or a gs:// path of T5X's")
    parser.add_argument("--from", dest="kind", choices=["hf", "t5x"], help="who wrote it")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: its name, in runs)")
    parser.add_argument(
        "--step",
        type=index,
        metavar="N",
        help="the step that it is at, where it doesn't say (Hugging Face's)",
    )
    parser.add_argument("--overwrite", action="store_true", help="write over an earlier import")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, help="of a decoder-only T5X checkpoint, which doesn't say it itself"
    )
    option_groups.add_vocabulary(parser)


def _import(options: argparse.Namespace) -> None:
    if options.kind is None:
        raise UserError("Who wrote the checkpoint? Write --from=hf or --from=t5x.")
    from t5x_mini.checkpoint.import_checkpoint import import_checkpoint

    names = ("kind", "output", "step", "vocabulary", "extra_ids", "architecture", "overwrite")
    import_checkpoint(options.path, **{name: getattr(options, name) for name in names})


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", help="a run's folder (its newest checkpoint) or a checkpoint")
    parser.add_argument("path", metavar="PATH", help="the folder to write")
    parser.add_argument("--to", choices=["hf"], default="hf", help="who is to read it: Hugging Face, the default")
    parser.add_argument("--push_to", metavar="USER/NAME", help="and upload it to the Hugging Face hub")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the tensors (default: float32)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write over what is in the folder")


def _export(options: argparse.Namespace) -> None:
    from t5x_mini.checkpoint.huggingface.export import export_checkpoint

    names = ("push_to", "dtype", "overwrite")
    where = export_checkpoint(options.checkpoint, options.path, **{name: getattr(options, name) for name in names})
    print(f"written to {where}")


COMMANDS = {
    "generate": Command(
        "answer a text",
        "Prints a checkpoint's answer to a text; where the text has <extra_id_0>, <extra_id_1> and so on, the text "
        "with what the model wrote in their place. Without a text it answers each line of standard input.",
        """examples:
  t5x-mini generate --checkpoint=runs/quickstart "Thank you <extra_id_0> me to your party <extra_id_1> week."
  t5x-mini generate --checkpoint=google/flan-t5-small --method=beam "translate English to German: Good morning."
  t5x-mini generate --checkpoint=runs/quickstart/checkpoints/500 --method=sample --num_decodes=3 --top_p=0.9
  t5x-mini generate --checkpoint=runs/quickstart < questions.txt > answers.txt""",
        _add_generate_options,
        _generate,
    ),
    "import": Command(
        "make a checkpoint of Hugging Face's or T5X's one of ours",
        "Writes a run's folder with the parameters of a checkpoint that Hugging Face's transformers or T5X wrote, its "
        "vocabulary, and a config.gin that describes the model. T5X's optimiser state is taken too. (Commands that "
        "read checkpoints take such a one as it is; imported, it is read faster and needs no network.)",
        """examples:
  t5x-mini import --from=hf google/flan-t5-small --output=runs/flan_t5_small
  t5x-mini import --from=t5x gs://t5-data/pretrained_models/t5x/t5_1_1_small/checkpoint_1000000""",
        _add_import_options,
        _import,
    ),
    "export": Command(
        "write a checkpoint for Hugging Face's transformers",
        "Writes a folder that AutoModelForSeq2SeqLM.from_pretrained takes; AutoModelForCausalLM with trust_remote_code "
        "for the decoder-only architectures.",
        """examples:
  t5x-mini export --to=hf runs/quickstart exported/quickstart
  t5x-mini export --to=hf runs/quickstart/checkpoints/500 exported/quickstart --dtype=bfloat16 --push_to=me/my-t5""",
        _add_export_options,
        _export,
    ),
}
