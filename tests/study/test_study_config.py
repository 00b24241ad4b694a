"""What a study is refused for before anything is trained, in words."""

import pytest

from t5x_mini import config
from t5x_mini.errors import UserError
from t5x_mini.study.config import Study, cell_names

AXES = {"objective": {"denoising": (), "LM": ()}, "architecture": {"encoder-decoder": (), "causal LM": ()}}


def test_cells_are_all_combinations_the_last_axis_the_quickest():
    assert cell_names(AXES) == [
        "denoising, encoder-decoder",
        "denoising, causal LM",
        "LM, encoder-decoder",
        "LM, causal LM",
    ]


@pytest.mark.parametrize("axes", [{}, {"architecture": {}}])
def test_a_study_needs_choices(axes):
    with pytest.raises(UserError, match="must have an axis, and each axis a choice.*Write Study.axes = "):
        Study(pretraining=("gin/quickstart.gin",), axes=axes)


@pytest.mark.parametrize("field", ["exceptions", "reference", "notes"])
def test_what_is_said_of_a_cell_that_is_not_there_is_refused_with_those_that_are(field):
    with pytest.raises(UserError, match=f"Study.{field} speaks of a cell 'LM', .* make denoising, encoder-decoder;"):
        Study(pretraining=("gin/quickstart.gin",), axes=AXES, **{field: {"LM": {}}})


def test_a_file_without_a_study_says_what_is_missing(tmp_path):
    (tmp_path / "none.gin").write_text("Study.seeds = 2\n")
    with pytest.raises(UserError, match="have no value: Study.pretraining, Study.axes"):
        config.load_study([str(tmp_path / "none.gin")])


def test_a_misspelt_field_is_refused_with_the_closest(tmp_path):
    (tmp_path / "typo.gin").write_text("Study.seed = 2\n")
    with pytest.raises(UserError, match="Study has no field seed; did you mean seeds?"):
        config.load_study([str(tmp_path / "typo.gin")])


def test_losses_are_compared_along_axes_that_are_there():
    with pytest.raises(UserError, match="compare_losses_along names 'size', which is no axis. There is objective"):
        Study(pretraining=("gin/quickstart.gin",), axes=AXES, compare_losses_along=("size",))


def test_a_study_has_a_seed(tmp_path):
    (tmp_path / "none.gin").write_text("include 'gin/studies/architectures.gin'\nStudy.seeds = 0\n")
    with pytest.raises(UserError, match="Study.seeds must be .*, not 0"):
        config.load_study([str(tmp_path / "none.gin")])
