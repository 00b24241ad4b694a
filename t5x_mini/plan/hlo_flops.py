"""The arithmetic of matrix products, as compiled programs write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from t5x_mini.plan.hlo_text import Array, Instruction


def product_flops(line: Instruction, shapes: Mapping[str, tuple[Array, ...]]) -> int:
    """Operations of an instruction, a multiply and an add as two; 0 for all but matrix products.

    Args:
        line: the instruction.
        shapes: arrays of each instruction of its computation.
    """
    if line.opcode == "dot":
        left = shapes[line.operands[0]][0].shape
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)[1]
        return 2 * math.prod(line.arrays[0].shape) * math.prod(left[int(i)] for i in contracted.split(",") if i)
    if line.opcode == "convolution":
        return _convolution_flops(line, shapes)
    return 0


def _convolution_flops(line: Instruction, shapes: Mapping[str, tuple[Array, ...]]) -> int:
    """TPU's compiler writes matrix products as convolutions, with batch dimensions as dilated spatial ones."""
    left, right, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes).groups()
    sizes = [
        dict(zip(labels, array.shape, strict=True))
        for labels, array in zip(
            (left, right, out), (shapes[line.operands[0]][0], shapes[line.operands[1]][0], line.arrays[0]), strict=True
        )
    ]
    window = _window(line.attributes, sum(label.isdigit() for label in out))
    places = math.prod(
        _valid_places(sizes[0][str(axis)], sizes[2][str(axis)], sizes[1][str(axis)], **window[axis])
        for axis in range(len(window))
    )
    groups = re.search(r"batch_group_count=(\d+)", line.attributes)
    batch = sizes[0]["b"] // (int(groups[1]) if groups else 1)
    return 2 * batch * sizes[1]["i"] * sizes[1]["o"] * places


def _window(attributes: str, axes: int) -> list[dict[str, int]]:
    """Padding, strides and dilations along each spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}
    one_each = "x".join("1" * axes)
    stride, left, right = (
        list(map(int, fields.get(name, one_each).split("x"))) if axes else []
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    pads = [int(pad.split("_")[0]) for pad in fields.get("pad", "x".join(["0_0"] * axes)).split("x")] if axes else []
    return [
        {"stride": stride[i], "pad": pads[i], "left_dilation": left[i], "right_dilation": right[i]} for i in range(axes)
    ]


def _valid_places(size: int, out: int, window: int, *, stride: int, pad: int, left_dilation: int, right_dilation: int):
    """Pairs of an output and a window position that meet a number of the input, not padding or a dilation's hole."""
    place = np.arange(out)[:, None] * stride + np.arange(window)[None] * right_dilation - pad
    return int(np.sum((place >= 0) & (place % left_dilation == 0) & (place // left_dilation < size)))
