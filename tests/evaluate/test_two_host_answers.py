"""Two real processes share the rows of every batch, and both get all answers: those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import free_port

TESTS = Path(__file__).parents[1]

DRIVER = """
import json, sys
import jax
index, count, port, out = sys.argv[1:]
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", num_processes=int(count), process_id=int(index))
import tiny
from t5x_mini.errors import UserError
from t5x_mini.parallel import hosts
from t5x_mini.evaluate.id_predictor import IdPredictor
from t5x_mini.model.config import DecodingConfig

config = tiny.model()
model = IdPredictor(tiny.params(config), config)
inputs = [[*range(2, 3 + row % 5), 1] for row in range(9)]
choices = [[[4, 1], [5, 6, 7, 1], [8, 1]][: 2 + row % 2] for row in range(9)]
forced = [[5] * (row % 3) for row in range(9)]
answers = model.generate_ids(inputs, DecodingConfig(max_length=4), forced=forced, batch_size=4)
beams = model.generate_ids(inputs[:1], DecodingConfig(method="beam", num_decodes=2, max_length=4))
scores = model.score_ids({"inputs": inputs, "targets": [row[-1] for row in choices]}, batch_size=4)

def refuse():
    raise UserError("no")

try:
    hosts.on_first(refuse)
except UserError as error:
    refused = str(error)
found = {
    "ids": [answer.ids for answer in [*answers, *beams]],
    "scores": [answer.scores for answer in [*answers, *beams]],
    "targets": [score.log_probabilities for score in scores],
    "choices": model.score_choices(inputs, choices, batch_size=4),
    "vectors": [vectors.tolist() for vectors in model.encode_ids(inputs, batch_size=4)],
    "index": hosts.gather(int(index)),
    "first": hosts.on_first(lambda: f"host {index}"),
    "refused": refused,
}
with open(out, "w") as file:
    json.dump(found, file)
"""


def _run(folder, name, count, devices):
    (folder / "driver.py").write_text(DRIVER)
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    settings |= {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    port, outs = str(free_port()), [folder / f"{name}-{index}.json" for index in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, folder / "driver.py", str(index), str(count), port, out],
            env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index, out in enumerate(outs)
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(printed)
    return [json.loads(out.read_text()) for out in outs]


@pytest.mark.slow
def test_both_get_all_answers(tmp_path):
    (alone,) = _run(tmp_path, "alone", 1, 1)
    first, second = _run(tmp_path, "both", 2, 2)
    assert (first.pop("refused"), second.pop("refused")) == ("no", "Nothing is written; the first host says why.")
    assert first == second
    assert first["index"] == [0, 1] and first["first"] == "host 0"
    assert first["ids"] == alone["ids"]
    assert [row[0][: place % 3] for place, row in enumerate(first["ids"][:9])] == [[5] * (row % 3) for row in range(9)]
    for name in ("scores", "targets", "choices", "vectors"):
        for row, wanted in zip(first[name], alone[name], strict=True):
            np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-5)
