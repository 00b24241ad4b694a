"""libtpu, which `t5x-mini plan` needs, complains wherever there is no TPU, unless it is told of one."""

from __future__ import annotations

import os
from pathlib import Path

TOLD = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
_GOOGLE = "0x1ae0"  # the PCI vendor of TPUs, by which JAX knows them too


def hush() -> None:
    """Tells it, where there is no TPU; to be called before JAX is imported."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    if not any(vendor.read_text().strip() == _GOOGLE for vendor in vendors):
        for name, value in TOLD.items():
            os.environ.setdefault(name, value)
