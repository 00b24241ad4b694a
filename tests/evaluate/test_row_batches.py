"""Tests of t5x_mini/evaluate/row_batches.py: few shapes, and nothing lost."""

import jax
import numpy as np
import pytest

from t5x_mini.evaluate.row_batches import batches, bucket, own_rows, padded, power_of_two
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import make_mesh
from t5x_mini.parallel.partitioner import MeshPartitioner


def test_buckets_are_few_and_close():
    sizes = sorted({bucket(length) for length in range(1, 1025)})
    assert sizes == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(bucket(length) >= length for length in range(1, 1025))
    assert (bucket(100, 110), bucket(0), bucket(20, 512)) == (110, 8, 24)
    assert sorted({power_of_two(length) for length in range(1025)}) == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert (power_of_two(100, 110), power_of_two(64), power_of_two(65)) == (110, 64, 128)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "ways", "expected"),
    [
        ([3, 9, 5], 2, 1, [([1, 2], 2), ([0], 2)]),
        ([1] * 5, 16, 1, [([0, 1, 2, 3, 4], 8)]),
        ([1] * 5, 6, 1, [([0, 1, 2, 3, 4], 6)]),
        ([1, 2], 16, 8, [([1, 0], 8)]),
        ([1] * 3, 3, 2, [([0, 1, 2], 4)]),
        ([], 4, 1, []),
    ],
)
def test_batches_are_filled_up_to_few_sizes(lengths, batch_size, ways, expected):
    assert list(batches(lengths, batch_size, ways)) == expected


def test_what_is_filled_up_ends_when_the_first_row_does():
    assert padded([[5, 6, 1], [7, 1]], 3, 4).tolist() == [[5, 6, 1, 0], [7, 1, 0, 0], [5, 6, 1, 0]]
    assert padded([], 2, 3).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert padded([[]], 1, 2).tolist() == [[0, 0]]


def test_rows_that_several_devices_hold_come_back_once():
    partitioner = MeshPartitioner(make_mesh(PartitioningConfig(data=2, fsdp=2, model=2)))
    rows = np.arange(8).reshape(4, 2)
    np.testing.assert_array_equal(own_rows(partitioner.put({"rows": rows})["rows"]), rows)
    np.testing.assert_array_equal(own_rows(jax.device_put(rows, partitioner.replicated)), rows)
