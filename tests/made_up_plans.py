"""Plans that nothing was compiled for."""

import dataclasses

from t5x_mini.plan import topologies
from t5x_mini.plan.figures import Memory, Plan, Times
from t5x_mini.plan.hlo_collectives import Collective

GIB = topologies.GIB


def plan(**changes) -> Plan:
    """A step on v5e:4x4 that takes half of the memory."""
    made = Plan(
        topology="v5e:4x4",
        slices=1,
        step="train",
        architecture="encoder_decoder",
        mesh={"data": 2, "fsdp": 8, "model": 1},
        settings={
            "rows": 64,
            "lengths": {"inputs": 512, "targets": 114},
            "num_microbatches": 1,
            "remat": "full",
            "scan_layers": True,
            "dtype": "bfloat16",
            "optimizer": "Adafactor",
        },
        parameter_count=1_000_000,
        replicated=(),
        memory=Memory(
            parameters=2 * GIB,
            optimizer=GIB,
            batch=0,
            temporaries=5 * GIB,
            program=0,
            available=16 * GIB,
            largest=(("f32[8,512] dot_general", GIB),),
        ),
        model_flops=16e12,
        flops=1.25e12,
        hbm_bytes=8_000_000_000,
        cycles=15_000_000,
        collectives=(Collective("all-gather", 2**20, 8, 1, 24),),
        times=Times(compute=0.005, memory=0.006, ici=0.002, cycles=0.01),
        mfu=(0.4, 0.5),
        compile_s=1.5,
        notes=("Made up",),
    )
    return dataclasses.replace(made, **changes)


def with_memory(**changes) -> Plan:
    """The same, with other bytes."""
    made = plan()
    return dataclasses.replace(made, memory=dataclasses.replace(made.memory, **changes))
