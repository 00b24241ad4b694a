"""The table of parameters: a line for each, with its shape, type, sharding and size, and totals that add up."""

import dataclasses
import re

import tiny

from t5x_mini import config as run_config
from t5x_mini.model import transformer
from t5x_mini.train import run
from t5x_mini.train.model_info import model_info, summary


def assembled(**mesh):
    config = run_config.load(["gin/quickstart.gin"], ["BATCH_SIZE=16"])
    partitioning = dataclasses.replace(config.partitioning, **mesh)
    return run.assemble(dataclasses.replace(config, model=tiny.model(), partitioning=partitioning))


def test_every_parameter_has_its_line():
    made = assembled(data=2, fsdp=2, model=2)
    lines = [re.split(r" {2,}", line) for line in model_info(made).split("\n\n")[0].splitlines()]
    assert lines[0] == ["parameter", "shape", "dtype", "sharding", "values"]
    listed = {name: (shape, dtype, int(count.replace(",", ""))) for name, shape, dtype, _, count in lines[1:]}
    shapes = transformer.param_shapes(made.config.model)
    assert listed == {name: (str(s.shape), "float32", s.size) for name, s in shapes.items()}
    assert [line[0] for line in lines[1:]] == sorted(shapes)


def test_sharding_is_told_dimension_by_dimension():
    split = {line.split()[0]: line for line in model_info(assembled(data=2, fsdp=2, model=2)).splitlines() if line}
    assert re.search(r"float32 +model, fsdp +640$", split["token_embedder/embedding"])
    assert re.search(r"float32 +-, fsdp, model +768$", split["encoder/layers/mlp/wi_0/kernel"])
    whole = {line.split()[0]: line for line in model_info(assembled(data=8)).splitlines() if line}
    assert re.search(r"float32 +replicated +640$", whole["token_embedder/embedding"])
    assert (split["mesh:"], whole["mesh:"]) == ("mesh: data=2, fsdp=2, model=2", "mesh: data=8, fsdp=1, model=1")
    assert split["architecture:"] == "architecture: encoder_decoder"


def test_the_total_is_the_models():
    made = assembled()
    count = transformer.param_count(made.config.model)
    assert summary(made) == f"total: {count:,} parameters, {count * 4 / 2**20:,.1f} MiB"
    assert model_info(made).rstrip().endswith(summary(made))
