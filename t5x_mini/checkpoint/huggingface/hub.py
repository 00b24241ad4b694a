"""The Hugging Face hub: a model's files from there, and an exported folder to there. Needs the extra `[hf]`."""

from __future__ import annotations

import re
import types
from pathlib import Path

from t5x_mini.errors import UserError

_NAME = re.compile(r"\w[\w.-]{0,94}(/\w[\w.-]{0,94})?(?<![.-])", re.ASCII)
# What is read of a model: never the pickles, nor the weights of other libraries.
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer_config.json", "spiece.model"]
_LOG_IN = (
    "Make a token that may write at https://huggingface.co/settings/tokens, and log in with `hf auth login` or set "
    "HF_TOKEN to it."
)


def is_name(path: str) -> bool:
    """Whether a path may be a model's name on the hub: `t5-small`, `google/flan-t5-small`."""
    return bool(_NAME.fullmatch(path))


def fetch(name: str) -> Path:
    """The folder of a model's files in the hub's cache, where they are copied at first use.

    Raises:
        UserError: there is neither such a folder nor such a model, or the hub cannot be reached.
    """
    if not is_name(name):
        raise UserError(
            f"There is no folder {name}, and it is no name on the Hugging Face hub. Write a model's folder, or a name "
            "such as google/flan-t5-small."
        )
    library = _library(f"There is no folder {name}; to look for it on the hub")
    try:
        return Path(library.snapshot_download(name, allow_patterns=_WANTED))
    except library.errors.GatedRepoError as error:
        raise UserError(
            f"{name} asks for an agreement before it can be copied. Accept it at https://huggingface.co/{name} and log "
            "in with `hf auth login`."
        ) from error
    except library.errors.RepositoryNotFoundError as error:
        raise UserError(
            f"There is no folder {name}, and no such model on the Hugging Face hub (or only for those who are logged "
            "in: `hf auth login`). Write a model's folder, or a name such as google/flan-t5-small."
        ) from error
    except (library.errors.LocalEntryNotFoundError, library.errors.HfHubHTTPError, OSError) as error:
        raise UserError(
            f"There is no folder {name}, and the Hugging Face hub cannot be asked for it: {_first_line(error)} Without "
            "the network, copy the model's files to a folder on a machine that has it."
        ) from error


def check_push(name: str) -> None:
    """Whether there is a chance to push: called before an export, which can take long.

    Raises:
        UserError: not a name, the library is missing, or nobody is logged in.
    """
    if not (is_name(name) and "/" in name):
        raise UserError(f"--push_to={name} is not a name on the Hugging Face hub. Write USER/NAME, such as me/my-t5.")
    if _library("To push to the hub").get_token() is None:
        raise UserError(f"Nobody is logged in to the Hugging Face hub, so {name} cannot be written. {_LOG_IN}")


def push(folder: str, name: str) -> str:
    """Makes the model on the hub unless it is there, and uploads the folder as one commit. Returns its address.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    check_push(name)
    library = _library("To push to the hub")
    api = library.HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export from t5x-mini")
    except (library.errors.HfHubHTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = f" {_LOG_IN}" if status in (401, 403) else ""
        raise UserError(
            f"The model is complete in {folder}, but could not be pushed to {name}: {_first_line(error)}{hint} Push it "
            f"again with: hf upload {name} {folder}"
        ) from error
    return str(address)


def _library(what: str) -> types.ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise UserError(f"{what}, the package huggingface_hub is needed: pip install 't5x-mini[hf]'.") from None
    return huggingface_hub


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
