"""To the hub and back, against a hub on this machine, through huggingface_hub itself."""

import builtins
import sys

import fake_hub
import pytest

from t5x_mini.checkpoint.huggingface import hub
from t5x_mini.errors import UserError

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The models of a hub that huggingface_hub takes for the real one; nobody is logged in."""
    from huggingface_hub import constants

    models = {}
    with fake_hub.serving(models) as address:
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "tokens"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        for variable in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(variable, raising=False)
            monkeypatch.delenv(variable.upper(), raising=False)
        yield models


def folder_of(tmp_path, files):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 9, "README.md": b"# A card\n", "new.gin": b"x"}


def test_a_folder_is_pushed_and_comes_back(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token")
    address = hub.push(folder_of(tmp_path, FILES), "me/my-t5")
    assert models == {"me/my-t5": FILES}
    assert address.endswith("/me/my-t5")
    fetched = hub.fetch("me/my-t5")
    # What a model is read from; the card and other files stay there.
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }


def test_pushing_again_replaces_the_files(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token")
    models["me/my-t5"] = {"config.json": b"old"}
    hub.push(folder_of(tmp_path, FILES), "me/my-t5")
    assert models["me/my-t5"] == FILES


def test_without_a_token_it_says_where_to_get_one(models, tmp_path):
    with pytest.raises(UserError, match=r"Nobody is logged in.*settings/tokens.*hf auth login"):
        hub.push(folder_of(tmp_path, FILES), "me/my-t5")
    assert models == {}


def test_a_token_that_may_not_write_is_an_error_that_keeps_the_folder(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another-token")
    folder = folder_of(tmp_path, FILES)
    with pytest.raises(UserError, match=rf"complete in {folder}.*pushed to me/my-t5.*401.*hf upload me/my-t5 {folder}"):
        hub.push(folder, "me/my-t5")


@pytest.mark.parametrize("name", ["my-t5", "me/my/t5", "me/my t5"])
def test_a_push_needs_a_user_and_a_name(name):
    with pytest.raises(UserError, match=r"is not a name on the Hugging Face hub. Write USER/NAME"):
        hub.check_push(name)


def test_an_unknown_model_is_an_error(models):
    with pytest.raises(UserError, match=r"no folder me/nothing, and no such model on the Hugging Face hub"):
        hub.fetch("me/nothing")


def test_a_path_that_is_no_name_is_not_looked_for(models):
    with pytest.raises(UserError, match=r"There is no folder runs/x/export, and it is no name"):
        hub.fetch("runs/x/export")


def test_without_the_network_it_says_so(models, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hub cannot be asked for it.*Without the network, copy"):
        hub.fetch("google/flan-t5-small")


def test_without_the_library_it_says_which_extra_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    for name in [name for name in sys.modules if name.startswith("huggingface_hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"no folder google/flan-t5-small; .*pip install 't5x-mini\[hf\]'"):
        hub.fetch("google/flan-t5-small")
    with pytest.raises(UserError, match=r"To push to the hub, .*pip install"):
        hub.check_push("me/my-t5")
