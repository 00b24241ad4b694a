"""`python -m t5x_mini` is `t5x-mini`."""

import sys

from t5x_mini.cli import main

sys.exit(main())
