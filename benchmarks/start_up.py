#!/usr/bin/env python
"""How long it takes from the command `t5x-mini train` to the end of the first step, with a warm compilation cache.

    python benchmarks/start_up.py --size small --batch 4

Tokenises this repository's documentation, starts a run of gin/runs/pretrain.gin on its tokens once, which fills a
compilation cache of its own, and then `--runs` times more, each in a folder of its own and killed when its first step
is reported. Prints one JSON line, of medians with all runs beside them: `first_step_s`, seconds until then; `start_s`,
the same without the step itself (the time that the run says it took, in which it also waits for its first parameters);
`cpu_s`, until then, of all cores; `cold_s`, what the first start took; `programs`, how many the cache has, and
`compiled`, how many came to it after the first start; `tensorflow`, whether a process had it loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=["tiny", "mini", "small", "base"])
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--inputs", type=int, default=512, help="input tokens a row")
    parser.add_argument("--targets", type=int, default=114, help="target tokens a row")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of activations")
    parser.add_argument("--runs", type=int, default=3, help="warm starts to take the median of")
    return parser.parse_args()


def arguments_of_run(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """The configuration, as words of a command line."""
    files = ("runs/pretrain.gin", f"models/t5_1_1/{arguments.size}.gin", "hardware/cpu.gin")
    bindings = {
        "docs/PretrainingTask.files": {"train": f"{folder}/text.txt", "validation": f"{folder}/text.txt"},
        "MIXTURE_OR_TASK_NAME": "docs",
        "VOCABULARY": "docs_8k",
        "TransformerConfig.vocab_size": 32128,
        "TASK_FEATURE_LENGTHS": {"inputs": arguments.inputs, "targets": arguments.targets},
        "BATCH_SIZE": arguments.batch,
        "DTYPE": arguments.dtype,
        "DATA_FEED": "tokens",
        "TOKENS_DIR": f"{folder}/tokens",
        "TRAIN_STEPS": 1,
    }
    return [
        *(f"--gin_file=gin/{name}" for name in files),
        *(f"--gin.{name}={value!r}" for name, value in bindings.items()),
    ]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "t5x_mini", *words]


def start(words: list[str], model_dir: Path, environment: dict[str, str]) -> dict[str, float | bool]:
    """One start, up to the line that reports the first step."""
    began = time.perf_counter()
    with subprocess.Popen(
        command("train", *words, f"--gin.MODEL_DIR={model_dir}"),
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("step 1/"):
                break
        else:
            raise SystemExit("".join(said))
        first_step_s, cpu_s = time.perf_counter() - began, cpu_seconds(process.pid)
        tensorflow = "tensorflow" in Path(f"/proc/{process.pid}/maps").read_text()
        process.kill()
    row = json.loads((model_dir / "metrics.jsonl").read_text().splitlines()[0])
    start_s = first_step_s - row["timing/seconds"]
    return {"first_step_s": first_step_s, "start_s": start_s, "cpu_s": cpu_s, "tensorflow": tensorflow}


def cpu_seconds(process: int) -> float:
    """Seconds that all threads of a process have had so far, in user code and in the kernel (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pages = [page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))]
        (folder / "text.txt").write_text("\n".join(" ".join(page.split()) for page in pages))
        words = arguments_of_run(arguments, folder)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder / "cache")}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        tokenize = command("tokenize", "--task=docs", "--workers=1", *words)
        subprocess.run(tokenize, cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
        cold = start(words, folder / "cold", environment)
        programs = set((folder / "cache").rglob("*-cache"))
        warm = [start(words, folder / f"warm{number}", environment) for number in range(arguments.runs)]
        compiled = len(set((folder / "cache").rglob("*-cache")) - programs)
    names = ("first_step_s", "start_s", "cpu_s")
    row = {
        "who": "t5x_mini",
        **vars(arguments),
        "cores": len(os.sched_getaffinity(0)),
        **{name: round(statistics.median(run[name] for run in warm), 2) for name in names},
        "all": [{name: round(run[name], 2) for name in names} for run in warm],
        "cold_s": round(cold["first_step_s"], 2),
        "programs": len(programs),
        "compiled": compiled,
        "tensorflow": any(run["tensorflow"] for run in [cold, *warm]),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
