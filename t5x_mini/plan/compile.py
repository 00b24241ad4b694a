"""Compiles a step for hardware that is not here, in a process of its own, and reads off what it needs.

libtpu from PyPI compiles for a whole pod on a machine without a TPU. It prints warnings and takes a lock, and a program
for 256 chips takes gigabytes while it is compiled: all that ends with the process.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_mini import quiet_libtpu
from t5x_mini.errors import UserError
from t5x_mini.plan import topologies
from t5x_mini.plan.figures import Memory, Plan, step_times
from t5x_mini.plan.topologies import GIB, Topology

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig
    from t5x_mini.plan.hlo import Program
    from t5x_mini.train.run import Run

STEPS = ("train", "eval", "decode")

# Pieces of the vocabularies that T5 and its family publish, so that a plan needs no network.
_PUBLISHED_VOCABULARIES = {
    "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model": 32000,
    "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model": 250000,
    "gs://t5-data/vocabs/umt5.256000/sentencepiece.model": 256000,
}

_UNREADABLE = (
    "The memory is as compiled; FLOPs, traffic and collectives are not known, as jaxlib {jaxlib} can't read what this "
    "libtpu wrote ({error}). The libtpu of jax's own extra may do: pip install 'jax[tpu]'"
)


def plan(
    files: Sequence[str],
    bindings: Sequence[str],
    topology: str,
    slices: int = 1,
    step: str = "train",
    search_paths: Sequence[str] = (),
) -> Plan:
    """Compiles the step of a configuration for a topology.

    Args:
        files: gin files, as for `config.load`.
        bindings: `NAME=VALUE`.
        topology: a name of `topologies.parse`.
        slices: of that topology, joined by the data centre's network.
        step: `train`, `eval` or `decode`.
        search_paths: further folders to find gin files in.

    Raises:
        UserError: what `config.load` and `train.run.assemble` raise; unknown names; libtpu is not installed.
    """
    _check(topology, slices, step)
    request = dict(files=list(files), bindings=list(bindings), search_paths=list(search_paths))
    request |= dict(topology=topology, slices=slices, step=step)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "plan.json"
        # The package may be on this process's path alone, as a checkout in the working directory is.
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        environment = os.environ | _environment(topologies.parse(topology), slices) | {"PYTHONPATH": path}
        command = [sys.executable, "-m", "t5x_mini.plan.compile", str(answer)]
        done = subprocess.run(command, input=json.dumps(request), text=True, env=environment, check=False)
        if not answer.is_file():
            killed = " It was killed, for lack of memory perhaps." if done.returncode == -9 else ""
            raise UserError(f"Compiling for {topology} ended with status {done.returncode}; see above.{killed}")
        found = json.loads(answer.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return Plan.from_json(found)


def _check(topology: str, slices: int, step: str) -> None:
    asked = topologies.parse(topology)
    if slices > 1 and asked.platform != "tpu":
        raise UserError(f"{topology} has no slices: leave out --slices.")
    if slices > 1 and not asked.chip.dcn and asked.kind != "v4":
        raise UserError(f"{asked.kind} cannot be joined to {slices} slices: Multislice begins with v4.")
    if step not in STEPS:
        raise UserError(f"There is no step {step}; write --step={', '.join(STEPS[:-1])} or {STEPS[-1]}.")


def _environment(topology: Topology, slices: int) -> dict[str, str]:
    """What has to be said before JAX is imported."""
    settings = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if topology.platform == "tpu":
        # Several may compile at once; and libtpu would look for the machine's TPU, and complain that there is none.
        return settings | quiet_libtpu.TOLD | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    forced = f"--xla_force_host_platform_device_count={topology.devices}"
    return settings | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {forced}".strip()}


# In the process of its own


def main(arguments: Sequence[str]) -> None:
    """Reads the request from standard input, and writes the plan, or a user's mistake, to the file that is named."""
    request = json.load(sys.stdin)
    try:
        found = _answer(**request).as_json()
    except UserError as error:
        found = {"error": str(error)}
    Path(arguments[0]).write_text(json.dumps(found))


def _answer(files, bindings, search_paths, topology, slices, step) -> Plan:
    from t5x_mini import config

    # Nothing is written: a plan needs no folder, and none is asked for.
    loaded = config.load(files, [*bindings, "MODEL_DIR=none"], search_paths, training=step == "train")
    return compile_plan(loaded, topologies.parse(topology), slices, step)


def compile_plan(config: RunConfig, topology: Topology, slices: int = 1, step: str = "train") -> Plan:
    """`plan` of a configuration that is read already, in this process."""
    import jax

    from t5x_mini.plan.hlo import Program
    from t5x_mini.train.run import assemble

    config, notes = _with_vocabulary(config)
    notes = [*filter(None, (topology.note,)), *notes]
    if step == "decode":
        notes.append("Every answer is counted at its full length, and the model's FLOPs as those of one forward pass")
    if config.model.remat == "offload":
        notes.append("What goes to the host's memory and back takes a time that is not in the step's")
    if config.model.attention == "flash":
        notes.append("What the kernel of ATTENTION = 'flash' computes and reads is not in FLOPs, traffic and times")
    run = assemble(config, _devices(topology, slices))
    made = _analytical(run, topology, slices, step)
    if topology.platform != "tpu":
        return dataclasses.replace(
            made, notes=(*notes, "Nothing was compiled: activations and collectives are left out")
        )
    if made.memory.total > topology.chip.hbm:
        return dataclasses.replace(made, notes=(*notes, "Not compiled: the state alone is too large"))
    notes.append(f"Compiled by libtpu {metadata.version('libtpu')}")
    start = time.monotonic()
    try:
        compiled = _compile(run, step)
    except Exception as error:  # JaxRuntimeError, of which only the text tells what it is
        needed = _needed(str(error))
        if needed is None:
            raise
        short = dataclasses.replace(made.memory, temporaries=max(int(needed) - made.memory.total, 0))
        return dataclasses.replace(made, memory=short, compile_s=round(time.monotonic() - start, 1), notes=tuple(notes))
    seconds = round(time.monotonic() - start, 1)
    needs = compiled.memory_analysis()
    memory = dataclasses.replace(
        made.memory,
        temporaries=needs.temp_size_in_bytes + max(needs.output_size_in_bytes - needs.alias_size_in_bytes, 0),
        program=needs.generated_code_size_in_bytes,
    )
    made = dataclasses.replace(made, memory=memory, compile_s=seconds)
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # jaxlib's own reader is older than a newer libtpu
        notes.append(_UNREADABLE.format(jaxlib=jax.lib.__version__, error=str(error).splitlines()[0]))
        return dataclasses.replace(made, notes=tuple(notes))
    if slices > 1 and not topology.chip.dcn:
        notes.append(f"What slices of {topology.kind} send to one another takes a time that is not known")
    return _with_program(dataclasses.replace(made, notes=tuple(notes)), Program(text), topology)


def _with_program(made: Plan, program: Program, topology: Topology) -> Plan:
    """The plan with what the program's text says."""
    flops, traffic, cycles, collectives = program.flops, program.hbm_bytes, program.cycles, program.collectives
    times = step_times(topology.chip, flops, traffic, cycles, collectives)
    return dataclasses.replace(
        made,
        memory=dataclasses.replace(made.memory, largest=tuple(program.largest())),
        flops=flops,
        hbm_bytes=traffic,
        cycles=cycles,
        collectives=collectives,
        times=times,
        mfu=_mfu(made.model_flops, times, topology, made.slices),
    )


def _with_vocabulary(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The model's vocabulary written down where it is one of those T5 published, and what to say about it."""
    pieces = _PUBLISHED_VOCABULARIES.get(config.feed.vocabulary)
    if config.model.vocab_size is not None or pieces is None:
        return config, []
    rows = -(-(pieces + config.feed.extra_ids) // 128) * 128
    model = dataclasses.replace(config.model, vocab_size=rows)
    said = f"The vocabulary was not read: {pieces:,} pieces as published and {config.feed.extra_ids} EXTRA_IDS"
    return dataclasses.replace(config, model=model), [f"{said} make {rows:,} rows"]


def _devices(topology: Topology, slices: int) -> list:
    import jax

    if topology.platform != "tpu":
        return jax.devices()[: topology.devices]
    try:
        import libtpu  # noqa: F401 - JAX loads it
    except ImportError:
        raise UserError(
            "The compiler for TPUs is not installed. Write pip install 't5x-mini[plan]'; it exists for Linux on x86-64."
        ) from None
    from jax.experimental import topologies as jax_topologies

    # A v4 chip's two cores are one JAX device; libtpu's own default is two.
    options = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}
    if slices > 1:
        options["num_slices"] = slices
    try:
        found = jax_topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"libtpu makes no topology {topology.name}: {str(error).splitlines()[0]}") from None
    return list(found.devices)


def _analytical(run: Run, topology: Topology, slices: int, step: str) -> Plan:
    """What needs no compiler: the state's bytes on each device, and the model's FLOPs."""
    config, chip = run.config, topology.chip
    rows = config.feed.batch_size
    keeps_optimizer = step == "train"
    batch = sum(math.prod(shape.shape) * 4 for shape in run.batch_shapes(rows).values()) // run.partitioner.row_ways
    memory = Memory(
        parameters=_local_bytes(run.shapes.params, run.shardings.params),
        optimizer=_local_bytes(run.shapes.opt_state, run.shardings.opt_state) if keeps_optimizer else 0,
        batch=batch,
        temporaries=None,
        program=0,
        available=chip.hbm if chip else None,
    )
    flops = _model_flops(config, rows, step)
    devices = topology.devices * slices
    times = step_times(chip, flops / devices) if chip else None
    return Plan(
        topology=topology.name,
        slices=slices,
        step=step,
        architecture=config.model.architecture,
        mesh=dict(run.partitioner.mesh.shape),
        settings={
            "rows": rows,
            "lengths": dict(config.feed.task_feature_lengths),
            "num_microbatches": config.train.num_microbatches,
            "remat": config.model.remat,
            "attention": config.model.attention,
            "scan_layers": config.model.scan_layers,
            "dtype": config.model.dtype,
            "optimizer": type(config.optimizer).__name__,
        },
        parameter_count=sum(shape.size for shape in run.shapes.params.values()),
        replicated=_replicated(run),
        memory=memory,
        model_flops=flops,
        times=times,
        mfu=times and _mfu(flops, times, topology, slices),
    )


def _model_flops(config: RunConfig, rows: int, step: str) -> float:
    from t5x_mini.train import flops

    lengths = config.feed.task_feature_lengths
    count = flops.train_flops if step == "train" else flops.forward_flops
    return count(config.model, rows, lengths.get("inputs", 0), lengths["targets"])


def _mfu(model_flops: float, times: Any, topology: Topology, slices: int) -> tuple[float, float]:
    peak = topology.chip.peak_flops * topology.devices * slices
    return model_flops / (times.slowest * peak), model_flops / (times.fastest * peak)


def _local_bytes(shapes: Any, shardings: Any) -> int:
    """Bytes of a tree of arrays on one device."""
    import jax

    sizes = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, shapes, shardings)
    return sum(jax.tree.leaves(sizes))


def _replicated(run: Run) -> tuple[str, ...]:
    shapes, shardings = run.shapes.params, run.shardings.params
    total = sum(shape.size for shape in shapes.values())
    ways = run.partitioner.mesh.shape.get("fsdp", 1) * run.partitioner.mesh.shape.get("model", 1)
    return tuple(
        name
        for name, shape in sorted(shapes.items())
        if shape.size > total / 100 and math.prod(shardings[name].shard_shape(shape.shape)) * ways > shape.size
    )


def _compile(run: Run, step: str) -> Any:
    from t5x_mini.train import start
    from t5x_mini.train.step import make_eval_step

    if step == "train":
        return start.compile_step(run)
    config, partitioner = run.config, run.partitioner
    params, shardings = run.shapes.params, run.shardings.params
    if step == "eval":
        parts = config.train.num_microbatches
        eval_step = make_eval_step(config.model, config.loss, partitioner.axis_name, parts)
        return partitioner.compile_eval_step(eval_step, params, shardings, run.batch_shapes(config.feed.batch_size))
    return _compile_decode(run)


def _compile_decode(run: Run) -> Any:
    """A batch of answers, as `t5x-mini infer` decodes them (`evaluate/id_predictor.py`)."""
    import jax
    import numpy as np

    from t5x_mini.model import decoding

    config, lengths = run.config, run.config.feed.task_feature_lengths
    model = dataclasses.replace(config.model, dropout_rate=0.0, remat="none")
    length = config.decoding.max_length or lengths["targets"]
    inputs = jax.ShapeDtypeStruct((config.feed.batch_size, lengths.get("inputs", lengths["targets"])), np.int32)

    @functools.partial(
        run.partitioner.jit,
        in_shardings=(run.shardings.params, run.partitioner.rows),
        out_shardings=run.partitioner.rows,
    )
    def decode(params, inputs):
        key = jax.random.key(0)
        answers = decoding.decode(params, inputs, model, config.decoding, length=length, key=key)
        return answers.tokens, answers.scores

    return decode.lower(run.shapes.params, inputs).compile()


def _needed(message: str) -> float | None:
    """Bytes that a program would have needed, from the compiler's error; None for another error."""
    if "Ran out of memory" not in message and "RESOURCE_EXHAUSTED" not in message:
        return None
    patterns = (r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", r"\(([\d.]+)([KMGT])\) exceeds available HBM")
    found = next(filter(None, (re.search(pattern, message) for pattern in patterns)), None)
    return None if found is None else float(found[1]) * {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found[2]]


if __name__ == "__main__":
    main(sys.argv[1:])
