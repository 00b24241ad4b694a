"""The files that the safetensors library reads, and those that it writes."""

import json

import ml_dtypes
import numpy as np
import pytest

from t5x_mini.checkpoint.huggingface.safetensors_files import Tensor, Tensors, write_tensors
from t5x_mini.errors import UserError

safetensors = pytest.importorskip("safetensors.numpy")

RNG = np.random.default_rng(0)
ARRAYS = {f"tensor_{i}": RNG.normal(size=shape).astype(np.float32) for i, shape in enumerate([(3, 5), (7,), (1, 2, 3)])}


def lazy(arrays):
    return {name: Tensor(array.shape, lambda array=array: array) for name, array in arrays.items()}


def test_the_library_reads_what_is_written(tmp_path):
    write_tensors(tmp_path, lazy(ARRAYS), "float32", 10**9)
    read = safetensors.load_file(tmp_path / "model.safetensors")
    assert read.keys() == ARRAYS.keys()
    assert all(np.array_equal(read[name], array) for name, array in ARRAYS.items())


def test_what_the_library_writes_is_read(tmp_path):
    arrays = ARRAYS | {
        "half": ARRAYS["tensor_0"].astype(np.float16),
        "double": np.ones((2, 2)),
        "none": np.ones((0, 3)),
    }
    safetensors.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = Tensors(tmp_path)
    assert tensors.shapes == {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        read = tensors.read(name)
        assert read.dtype == np.float32 and np.array_equal(read, array.astype(np.float32))


def test_transposed_arrays_are_written_in_their_order(tmp_path):
    write_tensors(tmp_path, lazy({"x": ARRAYS["tensor_0"].T}), "float32", 10**9)
    np.testing.assert_array_equal(safetensors.load_file(tmp_path / "model.safetensors")["x"], ARRAYS["tensor_0"].T)


def test_bfloat16_is_rounded_to_nearest(tmp_path):
    write_tensors(tmp_path, lazy(ARRAYS), "bfloat16", 10**9)
    expected = ARRAYS["tensor_0"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(Tensors(tmp_path).read("tensor_0"), expected)


def test_shards_are_no_larger_than_asked_and_hold_all(tmp_path):
    write_tensors(tmp_path, lazy(ARRAYS), "float32", 60)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    # 60 bytes, 28 and 24: the first fills a shard, the others share one.
    assert index["weight_map"] == {
        "tensor_0": "model-00001-of-00002.safetensors",
        "tensor_1": "model-00002-of-00002.safetensors",
        "tensor_2": "model-00002-of-00002.safetensors",
    }
    assert index["metadata"]["total_size"] == 112
    tensors = Tensors(tmp_path)
    assert all(np.array_equal(tensors.read(name), array) for name, array in ARRAYS.items())


def test_other_dtypes_are_refused(tmp_path):
    safetensors.save_file({"x": np.ones(3, np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"x is I8.*load a quantised model with transformers, and save it in float32"):
        Tensors(tmp_path).read("x")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x05\0\0\0\0\0\0\0[1,2]"])
def test_what_is_no_such_file_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="is not a safetensors file: its header .*Copy it again"):
        Tensors(tmp_path)


def test_an_array_of_another_shape_than_announced_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match=r"x has the shape \(3,\), where \(2,\) was announced"):
        write_tensors(tmp_path, {"x": Tensor((2,), lambda: np.ones(3, np.float32))}, "float32", 10**9)
