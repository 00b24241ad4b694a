"""Parameters by regexes: what they match, and what is said of those that match nothing."""

import pytest
import tiny

from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.train import param_names

SHAPES = transformer.param_shapes(tiny.model())


def frozen(*patterns):
    return param_names.frozen(SHAPES, patterns)


def test_names_on_disk():
    kernel = "encoder/layers/mlp/wo/kernel"
    assert param_names.of_layers(kernel, SHAPES[kernel]) == (
        "encoder/layers_0/mlp/wo/kernel",
        "encoder/layers_1/mlp/wo/kernel",
    )
    name = "encoder/encoder_norm/scale"
    assert param_names.of_layers(name, SHAPES[name]) == (name,)


def test_a_regex_matches_whole_names():
    assert frozen("token_embedder/embedding") == {"token_embedder/embedding"}
    assert frozen("encoder/.*") == {name for name in SHAPES if name.startswith("encoder/")}
    with pytest.raises(UserError, match="FROZEN has 'embedding', which matches no parameter"):
        frozen("embedding")


@pytest.mark.parametrize(
    "regex",
    ["encoder/layers/mlp/wo/kernel", r"encoder/layers_\d+/mlp/wo/kernel", "encoder/layers_[01]/mlp/wo/kernel"],
)
def test_a_stack_goes_by_its_own_name_or_by_those_of_all_its_layers(regex):
    assert frozen(regex) == {"encoder/layers/mlp/wo/kernel"}


def test_several_regexes_add_up():
    assert frozen("encoder/encoder_norm/scale", "decoder/decoder_norm/.*") == {
        *("encoder/encoder_norm/scale", "decoder/decoder_norm/scale"),
    }


def test_some_layers_of_a_stack_are_refused():
    with pytest.raises(UserError) as error:
        frozen("encoder/layers_0/mlp/wo/kernel")
    assert str(error.value) == (
        "FROZEN has 'encoder/layers_0/mlp/wo/kernel', which matches encoder/layers_0/mlp/wo/kernel and not "
        "encoder/layers_1/mlp/wo/kernel. The layers of a stack are one array and can only be frozen together: write "
        "'encoder/layers/mlp/wo/kernel'."
    )


def test_what_matches_nothing_is_refused_with_near_names():
    with pytest.raises(UserError, match="FROZEN has 'encoder/layer/mlp/w0/.*matches no parameter") as error:
        frozen("encoder/layer/mlp/w0/kernel")
    assert "encoder/layers/mlp/wo/kernel" in str(error.value).split("Close to it: ")[1]


def test_what_is_no_regex_is_refused():
    with pytest.raises(UserError, match=r"FROZEN has 'encoder/\(', which is not a regular expression: "):
        frozen("encoder/(")


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="FROZEN matches every parameter, and leaves nothing to train"):
        frozen(".*")
