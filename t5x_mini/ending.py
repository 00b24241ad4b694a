"""The end of a process that has read text through TensorFlow.

tf.data's threads call Python, for the objectives of SeqIO's tasks. While the interpreter is taken apart, those of a
stream that is still open wait for its lock, and it may wait for them: now and then such a process did all of its work
and never ended. So it does here what Python does at the end of a program, and leaves before anything is taken apart.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """Ends the process with an exit status: by `sys.exit`, or, where TensorFlow is loaded, behind all that it waits for
    (threads that are no daemons, `atexit`, what is still to be written)."""
    if "tensorflow" not in sys.modules:
        sys.exit(status)
    threading._shutdown()  # what the interpreter calls; it has no public name
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
