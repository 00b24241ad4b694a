"""The texts are T5's."""

from __future__ import annotations

import pytest
from task_goldens import T5, assert_as_t5

from t5x_mini.tasks import translation

DEFINITIONS = {definition.name: definition for definition in translation.definitions()}


def test_has_t5s_tasks():
    assert sorted(DEFINITIONS) == sorted(name for name in T5["tasks"] if name.startswith("wmt"))
    assert set(translation.ALIASES.values()) <= DEFINITIONS.keys()


@pytest.mark.parametrize("name", DEFINITIONS)
def test_writes_what_t5_writes(name):
    assert_as_t5(DEFINITIONS[name])
