"""Tests of t5x_mini/redaction.py: what is secret goes, what only looks a little like it stays."""

import pytest

from t5x_mini import config
from t5x_mini.errors import UserError
from t5x_mini.redaction import REDACTED, redact

SECRETS = {
    "a URL's password": ("https://me:hunter2@host/x.txt", "https://[redacted]@host/x.txt"),
    "a URL's user, which may be a token": ("https://tok123@host/x", "https://[redacted]@host/x"),
    "a signed URL": ("https://h/f?X-Goog-Signature=0a1b&n=1", "https://h/f?X-Goog-Signature=[redacted]&n=1"),
    "an access signature": ("https://h/f?sv=1&sig=ab%2Bc", "https://h/f?sv=1&sig=[redacted]"),
    "both": ("https://me:pw@h/f?token=1", "https://[redacted]@h/f?token=[redacted]"),
    "Hugging Face": ("HF says hf_abcdefghijklmnopqrstu.", "HF says [redacted]."),
    "GitHub": ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[redacted]"),
    "AWS": ("AKIAABCDEFGHIJKLMNOP is bad", "[redacted] is bad"),
    "Google": ("ya29.a0AfH6SMBx-abcdefgh_123 expired", "[redacted] expired"),
    "a header": ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
    "an assignment": ("password = 'abc'", "password = '[redacted]'"),
    "JSON": ('{"api_key": "abc", "n": 1}', '{"api_key": "[redacted]", "n": 1}'),
    "the environment": ("wandb: 401 for K0123456789abcdef", "wandb: 401 for [redacted]"),
    "its longest first": ("K0123456789abcdef-more", "[redacted]"),
}
ENVIRONMENT = {
    "WANDB_API_KEY": "K0123456789abcdef",
    "OTHER_TOKEN": "K0123456789abcdef-more",
    "SHORT_KEY": "step",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json",
    "TOKENS_DIR": "tokens_of_c4",
}
HARMLESS = [
    "TOKENS_DIR = 'tokens'",
    "timing/tokens_per_second: 12.5, target_tokens 114",
    "VOCABULARY = 'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'",
    "step 3 of /home/me/key.json with tokens_of_c4",
    "https://host/path?split=train&page=2",
    "the random key (2,) and 'monkey' = 3",
    "files = {'train': 's3://bucket/text/*.txt'}",
    "AIza is short, and so is hf_abc",
]


@pytest.mark.parametrize("secret, expected", SECRETS.values(), ids=SECRETS)
def test_secrets_go(secret, expected):
    assert redact(secret, ENVIRONMENT) == expected
    assert redact(expected, {}) == expected  # twice is as good as once


@pytest.mark.parametrize("text", HARMLESS)
def test_the_rest_stays(text):
    assert redact(text, ENVIRONMENT) == text


def test_the_environment_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "open sesame")
    assert redact("say open sesame!") == f"say {REDACTED}!"


def test_a_config_is_saved_without_secrets_and_asks_for_them_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-own-secret-value")
    task = "x/PretrainingTask.files={'train': 'https://me:hunter2@host/x.txt', 'test': 'my-own-secret-value.txt'}"
    config.load(["gin/quickstart.gin"], [task])
    saved = tmp_path / "config.gin"
    saved.write_text(config.operative_config())
    assert "hunter2" not in saved.read_text() and "my-own-secret-value" not in saved.read_text()
    with pytest.raises(UserError, match=r"x/PretrainingTask.files was saved without its secret. Give it again: --gin"):
        config.load([str(saved)])
    again = config.load([str(saved)], [task])
    assert again.feed.tasks[0].files["train"] == "https://me:hunter2@host/x.txt"
