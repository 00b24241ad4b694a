"""What a model is made of, for people: every parameter with its shape, dtype and sharding."""

from __future__ import annotations

import numpy as np

from t5x_mini.train.run import Run


def model_info(run: Run) -> str:
    """A table with a line a parameter, then the totals. The layers of a stack are one line."""
    rows = [("parameter", "shape", "dtype", "sharding", "values")]
    for name, shape in sorted(run.shapes.params.items()):
        sharding = [(axes,) if isinstance(axes, str) else axes for axes in run.shardings.params[name].spec]
        split = ", ".join("+".join(axes) if axes else "-" for axes in sharding) if any(sharding) else "replicated"
        rows.append((name, str(shape.shape), str(shape.dtype), split, f"{shape.size:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1].rjust(widths[-1])]
        )
        for row in rows
    ]
    mesh = ", ".join(f"{axis}={size}" for axis, size in run.partitioner.mesh.shape.items())
    return "\n".join([*lines, "", f"architecture: {run.config.model.architecture}", f"mesh: {mesh}", summary(run), ""])


def summary(run: Run) -> str:
    """The total in one line."""
    params = run.shapes.params
    count = sum(shape.size for shape in params.values())
    frozen = sum(shape.size for name, shape in params.items() if name not in run.shapes.opt_state)
    size = sum(shape.size * np.dtype(shape.dtype).itemsize for shape in params.values())
    return f"total: {count:,} parameters, {size / 2**20:,.1f} MiB" + (f"; {frozen:,} of them frozen" if frozen else "")
