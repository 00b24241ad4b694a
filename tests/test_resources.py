"""Tests of t5x_mini/resources.py."""

import pathlib

import pytest

from t5x_mini import resources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package in an empty checkout."""
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "t5x_mini")
    for folder in ("t5x_mini", "gin", "data"):
        (tmp_path / folder).mkdir()
    return tmp_path / "t5x_mini"


def test_a_checkout_has_the_folders_beside_the_package(package):
    (package.parent / "data" / "here.txt").write_text("")
    assert resources.gin_root() == package.parent / "gin"
    assert resources.data_path("here.txt") == str(package.parent / "data" / "here.txt")


def test_an_installed_package_has_them_inside_whatever_lies_beside_it(package):
    (package / "gin").mkdir()
    (package / "data").mkdir()
    (package / "data" / "here.txt").write_text("")
    assert resources.gin_root() == package / "gin"
    assert resources.data_path("here.txt") == str(package / "data" / "here.txt")


def test_missing_data_is_named(package):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.model should have been installed"):
        resources.data_path("nowhere.model")


def test_gin_files_that_are_not_packages_leave_gin_config_alone():
    import gin

    assert hasattr(gin, "parse_config")
    assert not list(pathlib.Path(resources.gin_root()).rglob("__init__.py"))
