"""`python -m t5x_mini` is `t5x-mini`."""

import sys
from typing import NoReturn

from t5x_mini.kept_memory import restart_keeping_memory


def run() -> NoReturn:
    """What the command `t5x-mini` runs."""
    restart_keeping_memory()  # before the imports, which would be done twice

    from t5x_mini.cli import main
    from t5x_mini.ending import leave

    try:
        status = main()
    except Exception:  # a mistake of ours
        sys.excepthook(*sys.exc_info())
        status = 1
    leave(status)


if __name__ == "__main__":
    run()
