import pytest

from t5x_mini.errors import UserError
from t5x_mini.plan import topologies
from t5x_mini.train import flops


@pytest.mark.parametrize(
    ("name", "means", "chips", "devices"),
    [
        ("v5e:16x16", "v5e:16x16", 256, 256),
        ("v5litepod-16", "v5e:4x4", 16, 16),
        ("v6e-8", "v6e:2x4", 8, 8),
        ("v6e-1", "v6e:1x1", 1, 1),
        ("v4-8", "v4:2x2x1", 4, 4),
        ("v4-32", "v4:2x2x4", 16, 16),
        ("v4-64", "v4:2x4x4", 32, 32),
        ("v4-128", "v4:4x4x4", 64, 64),
        ("v5p-1024", "v5p:8x8x8", 512, 512),
        ("v3-32", "v3:4x4", 16, 32),
        ("tpu7x:2x2x1", "tpu7x:2x2x1", 4, 8),
        ("gpu:8xh100", "gpu:8xh100", 8, 8),
        ("cpu", "cpu", 1, 1),
    ],
)
def test_names(name, means, chips, devices):
    found = topologies.parse(name)
    assert (found.name, found.chips, found.devices) == (means, chips, devices)


@pytest.mark.parametrize("name", ["v3-32", "v4-32", "v5p-32"])
def test_it_is_said_where_a_name_counts_cores(name):
    assert topologies.parse(name).note == f"{name} counts cores, of which a chip has two"


@pytest.mark.parametrize("name", ["v5litepod-16", "v6e-8", "v4:2x2x4"])
def test_and_not_where_it_counts_chips(name):
    assert topologies.parse(name).note == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "tpu7:2x2x1",
            "no topology tpu7:2x2x1; did you mean tpu7x? Kinds are v3, v4, v5e, v5p, v6e, tpu7x, gpu and cpu",
        ),
        ("v5e:4x4x4", "v5e:4x4x4: slices of v5e have 2 sides, such as v5e:4x4"),
        ("v4:4x4", "slices of v4 have 3 sides, such as v4:4x4x4"),
        ("v4-33", "v4-33: slices come in powers of two from 8 cores"),
        ("v4-4", "v4-4: slices come in powers of two from 8 cores"),
        ("v6e-12", "v6e-12: slices come in powers of two."),
        ("v6-8", "no topology v6-8"),
        ("gpu:8xh101", "There is no GPU h101; did you mean h100? Known are a100, h100, h200"),
        ("v5e", "no topology v5e"),
        ("v5e:0x4", "no topology v5e:0x4"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(name, words):
    with pytest.raises(UserError) as error:
        topologies.parse(name)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("kind", "jax_name"),
    [("v3", "TPU v3"), ("v4", "TPU v4"), ("v5e", "TPU v5 lite"), ("v5p", "TPU v5"), ("v6e", "TPU v6 lite"),
     ("tpu7x", "TPU7x")],
)  # fmt: skip
def test_the_peak_is_the_one_that_a_run_reports_its_mfu_by(kind, jax_name):
    assert topologies.TPUS[kind].peak_flops == flops.peak_flops(jax_name, "tpu")
