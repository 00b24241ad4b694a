"""`python -m t5x_mini` is `t5x-mini`."""

import sys

from t5x_mini.huge_pages import restart_with_huge_pages


def run() -> int:
    """What the command `t5x-mini` runs."""
    restart_with_huge_pages()  # before the imports, which would be done twice

    from t5x_mini.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
