"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h"""


def end_with_parent(parent: int) -> None:
    """
    From now on SIGTERM reaches this process when *parent* (a pid) ends; exit at once when it has ended already.

    The kernel watches the parent's *thread* that started this process, so start children from a thread that stays.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)
