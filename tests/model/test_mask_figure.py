"""The drawn cells and lines against the masks that the model gets."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from t5x_mini.errors import UserError
from t5x_mini.model import mask_figure, masks
from t5x_mini.model.mask_figure import draw_masks, visible_cells


def cells(rows):
    return np.array([[cell == "1" for cell in row.split()] for row in rows.strip().splitlines()])


def test_encoder_decoder():
    found = visible_cells("encoder_decoder", 3, 2)
    assert found.encoder.shape == (3, 3) and found.encoder.all()
    assert found.cross.shape == (2, 3) and found.cross.all()
    np.testing.assert_array_equal(found.decoder, [[True, False], [True, True]])


def test_language_models_see_inputs_and_targets_in_one_row():
    causal, prefix = (visible_cells(name, 2, 3) for name in ("causal_lm", "prefix_lm"))
    assert causal.encoder is causal.cross is prefix.encoder is prefix.cross is None
    np.testing.assert_array_equal(causal.decoder, np.tri(5, dtype=bool))
    expected = """
        1 1 1 0 0
        1 1 1 0 0
        1 1 1 0 0
        1 1 1 1 0
        1 1 1 1 1
    """
    np.testing.assert_array_equal(prefix.decoder, cells(expected))


def test_the_prefix_is_the_one_of_t5x_example():
    batch = mask_figure._batch("prefix_lm", inputs=4, targets=3)
    assert batch["decoder_causal_attention"].tolist() == [[1, 1, 1, 1, 1, 0, 0]]


def test_matrix_draws_every_mask_as_it_is():
    figure = mask_figure._matrix_figure(4, 3)
    drawn = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    two_stacks = visible_cells("encoder_decoder", 4, 3)
    expected = [two_stacks.encoder, two_stacks.cross, two_stacks.decoder]
    expected += [visible_cells(name, 4, 3).decoder for name in ("causal_lm", "prefix_lm")]
    assert len(drawn) == len(expected)
    for found, wanted in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def lines_by_colour(figure):
    """How many lines there are in each colour; the grid of a matrix is not drawn in this style."""
    found = {}
    for collection in figure.axes[0].collections:
        assert isinstance(collection, LineCollection)
        colour = tuple(collection.get_colors()[0])
        found[colour] = found.get(colour, 0) + len(collection.get_segments())
    return found


def test_lines_join_what_may_attend():
    inputs, targets = 4, 3
    total, prefix = inputs + targets, inputs + 1
    one_layer = total * (total + 1) // 2
    fully_visible = inputs**2 + targets * inputs + 2 * prefix**2
    causal = targets * (targets + 1) // 2 + 2 * one_layer + 2 * (one_layer - prefix * (prefix + 1) // 2)
    assert lines_by_colour(mask_figure._lines_figure(inputs, targets)) == {
        to_rgba(mask_figure._FULLY_VISIBLE): fully_visible,
        to_rgba(mask_figure._CAUSAL): causal,
    }


def test_both_styles_ask_the_factory(monkeypatch):
    made = masks.make_masks

    def nothing(architecture, batch):
        return masks.Masks(*(None if mask is None else mask & False for mask in made(architecture, batch)))

    monkeypatch.setattr(masks, "make_masks", nothing)
    assert not any(image.get_array().any() for image in mask_figure._matrix_figure(4, 3).axes[0].images)
    assert not any(collection.get_segments() for collection in mask_figure._lines_figure(4, 3).axes[0].collections)


@pytest.mark.parametrize(
    ("style", "inputs", "targets"),
    [("matrix", 1, 1), ("matrix", 5, 4), ("matrix", 910, 114), ("lines", 1, 1), ("lines", 5, 4), ("lines", 44, 20)],
)
def test_the_file_is_a_png_with_ink_on_white(tmp_path, style, inputs, targets):
    path = tmp_path / "figures" / "masks.png"
    assert draw_masks(inputs, targets, style, path) == path
    pixels = matplotlib.image.imread(path)
    height, width = pixels.shape[:2]
    assert 800 < height < 1500 < width < 4000
    assert 0.02 < np.mean(pixels[..., :3].min(axis=-1) < 0.9) < 0.8
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert np.all(edge == 1.0)


def test_text_stays_on_the_page():
    for make in (mask_figure._matrix_figure, mask_figure._lines_figure):
        for inputs, targets in ((1, 1), (5, 4), (2, 9), (40, 20)):
            figure = make(inputs, targets)
            figure.draw_without_rendering()
            for text in figure.axes[0].texts:
                box = text.get_window_extent()
                assert box.x0 >= 0 and box.y0 >= 0
                assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()


@pytest.mark.parametrize(("inputs", "targets", "name"), [(0, 4, "inputs is 0"), (4, -1, "targets is -1")])
def test_nothing_to_draw(tmp_path, inputs, targets, name):
    with pytest.raises(UserError, match=f"at least one position on each side, but {name}"):
        draw_masks(inputs, targets, "matrix", tmp_path / "masks.png")


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("lines", "'lines' can show 64 positions, but inputs \\+ targets is 1025.*--style=matrix"),
        ("matrix", "'matrix' can show 1024 positions, but inputs \\+ targets is 1025. Ask for less."),
    ],
)
def test_too_much_to_draw(tmp_path, style, words):
    with pytest.raises(UserError, match=words):
        draw_masks(1000, 25, style, tmp_path / "masks.png")


def test_an_unknown_style(tmp_path):
    with pytest.raises(UserError, match="no style 'dots'.*--style=matrix or --style=lines"):
        draw_masks(5, 4, "dots", tmp_path / "masks.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("architecture", "drawn"), [("encoder_decoder", 3), ("prefix_lm", 1), ("causal_lm", 1)])
def test_one_architecture_alone(tmp_path, architecture, drawn):
    figure = mask_figure._matrix_figure(4, 3, (architecture,))
    images = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    found = visible_cells(architecture, 4, 3)
    assert len(images) == drawn
    np.testing.assert_array_equal(images[-1], found.decoder)
    figure.draw_without_rendering()
    assert all(text.get_window_extent().x0 >= 0 for text in figure.axes[0].texts)
    path = mask_figure.draw_mask(architecture, 4, 3, tmp_path / "masks.png")
    assert matplotlib.image.imread(path).shape[1] < 1200
    with pytest.raises(UserError, match="at least one position"):
        mask_figure.draw_mask(architecture, 0, 3, path)
