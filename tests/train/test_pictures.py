"""The bars of a mixture, and the pictures that a run's folder gets."""

import matplotlib.image
import pytest
import tiny_runs

from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks.definitions import Mixture
from t5x_mini.train import pictures


def feed(name, tmp_path, **changes):
    return FeedConfig(
        mixture_or_task_name=name,
        task_feature_lengths={"inputs": 8, "targets": 8},
        batch_size=1,
        glue_dir="tiny",
        **changes,
    )


def bars(figure):
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))


def test_rates_are_shares_of_what_is_trained_on(tmp_path):
    mixture = Mixture(name="three", tasks={"cola": 3.0, "rte": 1.0, "sst2": 0.0})
    found = feeds.rates(feed("three", tmp_path, tasks=(mixture,)))
    assert found == {"glue_cola_v002": 0.75, "glue_rte_v002": 0.25}
    assert feeds.rates(feed("cola", tmp_path)) == {"glue_cola_v002": 1.0}


def test_a_seqio_mixture_has_the_rates_it_was_registered_with(tmp_path):
    with tiny_runs.tiny(tmp_path) as runs:
        found = feeds.rates(feed(tiny_runs.MIXTURE, tmp_path, mixture_or_task_module=tiny_runs.MODULE))
        assert found == dict.fromkeys(tiny_runs.TASKS, 0.5)
        assert feeds.rates(feed(tiny_runs.TASKS[0], tmp_path, mixture_or_task_module=tiny_runs.MODULE)) == {
            tiny_runs.TASKS[0]: 1.0
        }
        assert runs.folder == tmp_path


def test_the_largest_share_is_on_top():
    figure = pictures.rates_figure("mix", {"small": 0.1, "large": 0.7, "middle": 0.2})
    assert bars(figure) == {"large": 0.7, "middle": 0.2, "small": 0.1}
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first is drawn on top
    assert {text.get_text() for text in figure.axes[0].texts} == {"70%", "20%", "10%"}


@pytest.mark.parametrize("count", [1, 8, 60])
def test_every_name_can_be_read(count):
    shares = {f"some_family_of_tasks_with_a_long_name_{index}": 1 / count for index in range(count)}
    figure = pictures.rates_figure("mix", shares)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == count and all(box.x0 >= 0 for box in boxes)
    boxes.sort(key=lambda box: box.y0)
    assert all(upper.y0 > lower.y1 for lower, upper in zip(boxes, boxes[1:], strict=False))
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in figure.axes[0].texts)


def test_the_file_is_a_picture(tmp_path):
    path = pictures.mixture_figure(feed("cola", tmp_path), tmp_path / "mixture.png")
    height, width = matplotlib.image.imread(path).shape[:2]
    assert path == tmp_path / "mixture.png" and width == 1200 and 150 < height < 400


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100%"), (0.412, "41%"), (0.0271, "2.7%"), (0.000162, "0.016%"), (1e-9, "<0.001%")]
)
def test_shares_have_two_figures(share, text):
    assert pictures._per_cent(share) == text
