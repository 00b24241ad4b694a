import pathlib
import subprocess
import sys

import pytest

from t5x_mini.errors import UserError
from t5x_mini.storage import check_writable, to_path


def test_a_path_here_is_pathlibs_and_one_in_a_bucket_has_the_same_methods(tmp_path):
    assert to_path(str(tmp_path)) == tmp_path and isinstance(to_path(tmp_path), pathlib.Path)
    there = to_path("gs://bucket/runs/one")
    assert str(there / "a") == "gs://bucket/runs/one/a"
    assert to_path(there) == there and type(to_path(there)) is type(there)
    assert [str(parent) for parent in there.parents] == ["gs://bucket/runs", "gs://bucket"]


@pytest.mark.parametrize("path", ["https://host/runs", "az://bucket/runs", "gs://", "s3:///"])
def test_other_places_are_refused(path):
    with pytest.raises(UserError, match=f"{path} is neither on this machine nor in a bucket. Write gs://my-bucket"):
        to_path(path)


@pytest.mark.parametrize("path", ["https://host/runs", "s3://bucket/runs"])
def test_runs_are_written_here_or_to_google(path):
    check_writable("runs/one", "MODEL_DIR")
    check_writable("gs://bucket/runs/one", "MODEL_DIR")
    with pytest.raises(UserError, match=f"MODEL_DIR is {path}, but runs are written to this machine or to gs://"):
        check_writable(path, "MODEL_DIR")


def test_a_path_here_needs_no_library():
    code = "import sys; from t5x_mini.storage import to_path; to_path('runs/x'); sys.exit('tensorstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
