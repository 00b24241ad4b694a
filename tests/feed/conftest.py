"""Makes toy_tasks.py importable by its bare name, as a user's own MIXTURE_OR_TASK_MODULE is."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
