"""The events that are written, read back as TensorBoard reads them: record by record, with their checksums."""

import pytest
from matplotlib.figure import Figure
from tensorboard_events import events

from t5x_mini.train.tensorboard import EventFile


@pytest.fixture
def written(tmp_path):
    """What became of the values that a function of an open file wrote."""

    def written(write):
        file = EventFile(tmp_path / "tensorboard", 0)
        write(file)
        file.close()
        return [(event.step, value) for event in events(tmp_path / "tensorboard") for value in event.summary.value]

    return written


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    Figure(figsize=(3, 2)).savefig(path, dpi=100)
    return path.read_bytes()


def test_texts_are_for_the_text_plugin(written):
    ((step, value),) = written(lambda file: file.text(7, "examples/cola", "| a |\n|---|\n| <é> |"))
    assert (step, value.tag, value.metadata.plugin_data.plugin_name) == (7, "examples/cola", "text")
    assert [text.decode() for text in value.tensor.string_val] == ["| a |\n|---|\n| <é> |"]
    assert value.tensor.dtype == 7 and [dim.size for dim in value.tensor.tensor_shape.dim] == [1]  # DT_STRING


def test_pictures_are_as_large_as_their_file_says(written, png):
    ((step, value),) = written(lambda file: file.image(3, "masks", png))
    assert (step, value.tag, value.metadata.plugin_data.plugin_name) == (3, "masks", "images")
    assert (value.image.width, value.image.height, value.image.colorspace) == (300, 200, 4)
    assert value.image.encoded_image_string == png


def test_what_is_no_picture_is_refused(written):
    with pytest.raises(ValueError, match="the picture 'masks' is not a PNG"):
        written(lambda file: file.image(0, "masks", b"\xff\xd8 a JPEG, say"))


def test_scalars_of_a_step_are_one_event(written):
    found = written(lambda file: file.scalars(2, {"loss": 1.5, "grad_rms/encoder/layers_0": 0.25}))
    assert [(step, value.tag, value.simple_value) for step, value in found] == [
        (2, "loss", 1.5),
        (2, "grad_rms/encoder/layers_0", 0.25),
    ]
