import os
import subprocess
import sys
from pathlib import Path

import fake_servers
import pytest

from t5x_mini import compilation_cache
from t5x_mini.errors import UserError

# Compiles one program, and says whether it was found.
_COMPILE = """
import sys
import jax
from jax._src import monitoring
from t5x_mini import compilation_cache

found = []
monitoring.register_event_listener(lambda name, **_: found.append(name.endswith("cache_hits")))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
compilation_cache.enable("auto", sys.argv[1])
jax.jit(lambda x: x * 2 + 1)(3.0)
print(jax.config.jax_compilation_cache_dir, any(found))
"""


def compile_in_another_process(model_dir, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent), **variables}
    command = [sys.executable, "-c", _COMPILE, str(model_dir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split(), done.stderr


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    variables = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = str(tmp_path / "t5x_mini/compilation_cache")
    assert compile_in_another_process("runs/x", **variables) == ([folder, "False"], "")
    assert list(Path(folder).glob("*-cache"))
    assert compile_in_another_process("runs/x", **variables) == ([folder, "True"], "")


def test_a_run_in_a_bucket_keeps_them_there():
    files = {}
    with fake_servers.serving(files) as (address, _):
        found = [compile_in_another_process("gs://cache-of-tests/x", TENSORSTORE_GCS_HTTP_URL=address)[0] for _ in "ab"]
    folder = "gs://cache-of-tests/x/compilation_cache"
    assert found == [[folder, "False"], [folder, "True"]]
    assert all(name.startswith("cache-of-tests/x/compilation_cache/") for name in files)


def test_jaxs_own_setting_goes_first(tmp_path):
    own = str(tmp_path / "own")
    (found, _), _ = compile_in_another_process("runs/x", JAX_COMPILATION_CACHE_DIR=own)
    assert found == own


def test_none_keeps_nothing_and_a_folder_is_a_folder(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(compilation_cache.jax.config, "update", lambda *setting: told.append(setting))
    monkeypatch.setattr(type(compilation_cache.jax.config), "jax_compilation_cache_dir", None)
    compilation_cache.enable(None, "runs/x")
    assert told == []
    compilation_cache.enable(str(tmp_path), "runs/x")
    assert told == [
        ("jax_compilation_cache_dir", str(tmp_path)),
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
    ]
    compilation_cache.enable("gs://bucket/cache", "runs/x")
    assert told[2:] == [
        ("jax_compilation_cache_dir", "gs://bucket/cache"),
        ("jax_persistent_cache_enable_xla_caches", "none"),
    ]
    with pytest.raises(UserError, match="neither on this machine nor in a bucket"):
        compilation_cache.enable("gs://", "runs/x")
