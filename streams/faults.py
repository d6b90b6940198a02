"""
Named places at which a test has a program killed or frozen.

`KEYMILL_TEST_CRASH_AT=name:count[:signal]` sends the process SIGKILL, or another signal, at the count-th passage;
without it this costs a dictionary look-up.
"""

import os
import signal
from typing import Final

POINTS: Final = ("after_claims", "before_publish", "after_publish", "after_dead_letters")
_name, _count, _signal = (*os.environ.get("KEYMILL_TEST_CRASH_AT", "").split(":"), "", "", "")[:3]
_left = {_name: int(_count or 1)} if _name else {}


def crash_point(name: str) -> None:
    """Die here, or stand still, if a test asked for it."""
    if name in _left:
        _left[name] -= 1
        if _left[name] == 0:
            os.kill(os.getpid(), getattr(signal, _signal or "SIGKILL"))
