"""What a checkpoint says of itself."""

import json

import pytest
import tiny

from t5x_mini.checkpoint.run_item import RunItem, Training, check_vocabulary, model_differences
from t5x_mini.errors import UserError

MODEL = tiny.model()


@pytest.mark.parametrize(
    "item",
    [
        RunItem(model=MODEL),
        RunItem(
            model=tiny.model("causal_lm", mlp_activations=("relu",)),
            vocabulary="0123 and 100 extra ids",
            vocabulary_source=("spiece.model", 100),
            training=Training(learning_rate=0.01, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS", dropout_rate=0.1),
        ),
    ],
)
def test_it_is_the_same_after_json(item):
    assert RunItem.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_a_checkpoint_from_before_some_settings_has_their_defaults():
    old = {"format": 1, "model": {"emb_dim": 16, "vocab_size": 40, "since_forgotten": 3}}
    item = RunItem.from_json(old)
    assert (item.model.emb_dim, item.model.relpos_bias_per_layer) == (16, False)
    assert (item.vocabulary, item.vocabulary_source, item.training) == (None, None, None)


def test_how_a_model_is_computed_is_no_difference():
    assert not model_differences(MODEL, tiny.model(dropout_rate=0.5, dtype="bfloat16", scan_layers=False, remat="full"))
    assert model_differences(MODEL, tiny.model(emb_dim=32)) == {"emb_dim": (16, 32)}


def test_an_encoder_that_is_not_there_has_no_layers_to_differ_in():
    assert not model_differences(tiny.model("causal_lm"), tiny.model("causal_lm", num_encoder_layers=5))
    assert model_differences(tiny.model(), tiny.model(num_encoder_layers=5))


def test_vocabularies_are_compared_where_both_are_known():
    for known in ((None, "a"), ("a", None), ("a", "a")):
        check_vocabulary("runs/x", *known)
    with pytest.raises(UserError, match="runs/x was trained on another vocabulary: a when it was saved, b now"):
        check_vocabulary("runs/x", "a", "b")
