"""What holds for every test: eight CPU devices, and shape annotations that are checked.

Both have to be in place before JAX and the package are imported, so they stand here and not in fixtures.
"""

import os
import signal
import sys
from pathlib import Path

# Sharding is tested on eight devices that are one CPU. A user's own JAX_PLATFORMS goes first.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What tests compile is not kept among what the user's own runs have, unless a test says where.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")

# A job that a shell runs in the background ignores Ctrl-C, and so would the runs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# annotations.py, goldens.py and tiny.py, by their bare names.
sys.path.append(str(Path(__file__).parent))

from jaxtyping import install_import_hook  # noqa: E402

# Every annotation in these modules is an assertion about shapes and dtypes while the tests run.
MODULES = "answers attention beam_search decoding encoding flash layers masks sampling scoring top_k transformer"
CHECKED = [f"t5x_mini.model.{module}" for module in MODULES.split()]
install_import_hook([*CHECKED, "t5x_mini.train.loss"], "annotations.checked")

# `make test` hands whole files to two processes in this order; the longest must not come last.
LONGEST = ("test_end_to_end.py", "test_docs.py", "test_two_hosts.py", "test_evaluator.py", "test_partitioner.py")


def pytest_collection_modifyitems(items):
    def place(item):
        return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)

    items.sort(key=place)
