"""What must not be written down: passwords and keys in what a run saves of its settings, errors and warnings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

REDACTED = "[redacted]"

_PATTERNS = (
    (re.compile(r"(?<=://)[^/\s'\"@]+@"), f"{REDACTED}@"),  # https://me:password@host
    # https://host/file?X-Goog-Signature=...
    (
        re.compile(
            r"(?i)([?&][\w.-]*(?:token|sig|signature|secret|password|key|credential)=)(?!\[redacted])[^&\s'\"]+"
        ),
        rf"\1{REDACTED}",
    ),
    # password = '...', "api_key": "..."; not TOKENS_DIR = ..., nor tokens_per_second: ...
    (
        re.compile(
            r"(?i)(\b[\w.-]*(?:password|passwd|secret|secret_key|api_?key|access_?key|(?:access|auth|bearer|hf|hub)_token)"
            r"['\"]?\s*[=:]\s*['\"]?)(?!\[redacted])[^\s&'\",;)}]+"
        ),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), rf"\1 {REDACTED}"),
    # Hugging Face, GitHub, OpenAI and the like, Google (two kinds), AWS
    (re.compile(r"\b(?:hf|gh[pousr]|github_pat|wandb_v\d)_\w{16,}|\bsk-[\w-]{16,}"), REDACTED),
    (re.compile(r"\bya29\.[\w-]{16,}|\bAIza[\w-]{30,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), REDACTED),
)
# Of variables of the environment. GOOGLE_APPLICATION_CREDENTIALS is a path, and no secret.
_NAME = re.compile(r"(?i)(?:^|_)(?:key|token|secret|password|passwd)(?:_id)?$")
_SHORTEST = 8  # a shorter value is in too many words


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with `[redacted]` in place of passwords in URLs, signatures, access tokens, and the values of variables
    of the environment that are called a key, token, secret or password (WANDB_API_KEY, HF_TOKEN).

    Args:
        environment: the process's, if None.
    """
    for value in _secrets(os.environ if environment is None else environment):
        text = text.replace(value, REDACTED)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Longest first, since one may be a part of another."""
    found = {value for name, value in environment.items() if _NAME.search(name) and len(value) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
