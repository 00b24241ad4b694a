"""SuperGLUE's texts are T5's."""

from __future__ import annotations

import pytest
from task_goldens import T5, assert_as_t5

from t5x_mini.errors import UserError
from t5x_mini.tasks import super_glue
from t5x_mini.tasks.text_to_text import write_row

DEFINITIONS = {definition.name: definition for definition in super_glue.definitions()}


def test_has_five_of_t5s_tasks():
    assert sorted(DEFINITIONS) == sorted(name for name in T5["tasks"] if name.startswith("super_glue_"))
    assert set(super_glue.ALIASES.values()) < DEFINITIONS.keys()


@pytest.mark.parametrize("name", DEFINITIONS)
def test_writes_what_t5_writes(name):
    assert_as_t5(DEFINITIONS[name])


def test_definitions_that_say_the_same_are_equal():
    assert super_glue.definitions() == list(DEFINITIONS.values())


def test_names_what_a_row_lacks():
    with pytest.raises(UserError, match="super_glue_wic_v102 lacks 'word'; it has 'sentence1', 'sentence2', 'label'"):
        write_row(DEFINITIONS["super_glue_wic_v102"], {"sentence1": "x", "sentence2": "y", "label": 1})
