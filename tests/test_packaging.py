"""Tests of setup.py: what a wheel carries, and that it works away from the checkout."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that no build folders appear in the checkout."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("t5x_mini", "gin", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", output]
    built = subprocess.run([*build, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = output.glob("*.whl")
    return path


def _files(folder):
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}


def test_the_wheel_carries_every_gin_file_and_all_data(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"t5x_mini/{name}" for name in _files("gin") | _files("data")} <= inside
    assert "t5x_mini/gin/quickstart.gin" in inside
    assert _files("t5x_mini/report/web") | _files("t5x_mini/report/uplot") <= inside
    assert not [name for name in inside if name.startswith(("gin/", "data/", "tests/"))]


def test_the_wheel_offers_the_command_and_the_extras(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "t5x-mini = t5x_mini.__main__:run" in archive.read(entry_points).decode()
    metadata = archive.read(entry_points.replace("entry_points.txt", "METADATA")).decode()
    for extra in ("tpu", "plan", "cuda", "hf", "wandb", "docs", "dev"):
        assert f"Provides-Extra: {extra}" in metadata


def test_the_wheel_finds_its_gin_files_from_any_directory(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from t5x_mini import config, resources\n"
        "print(config.load(['gin/quickstart.gin']).train.model_dir, resources.gin_root())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True)
    assert ran.stdout.split() == ["runs/quickstart", str(site / "t5x_mini" / "gin")], ran.stderr


@pytest.fixture(scope="module")
def requirements(wheel):
    """What each extra adds; under '', what is needed to run."""
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    lines = [line.partition("Requires-Dist: ")[2] for line in archive.read(metadata).decode().splitlines()]
    required = [Requirement(line) for line in lines if line]
    groups = {"": [requirement for requirement in required if requirement.marker is None]}
    marked = [requirement for requirement in required if requirement.marker is not None]
    for extra in ("dev", "docs", "hf"):
        groups[extra] = [requirement for requirement in marked if requirement.marker.evaluate({"extra": extra})]
    return groups


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("extra", ["", "dev", "docs", "hf"])
def test_constraints_pin_every_dependency_within_its_range(requirements, pins, extra):
    assert len(requirements[extra]) > 1
    for requirement in requirements[extra]:
        # pip freeze leaves the first two out, no concern of the project. libtpu has two versions: see setup.py.
        if requirement.name not in ("setuptools", "wheel", "libtpu"):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_any_build_of_pytorch_matches_its_pin(pins):
    assert "+" not in pins["torch"]


def test_pytorch_is_not_needed_to_run(requirements):
    assert {"torch", "transformers"} <= {requirement.name for requirement in requirements["dev"]}
    assert not {"torch", "transformers"} & {requirement.name for requirement in requirements[""] + requirements["hf"]}
