"""
Become a program that ends when its parent does. Run as a file, not imported: launch.py PARENT RECORD PROGRAM ARGUMENT…

It starts without site packages (`python -I -S`), so it knows the standard library alone.

A death signal set between fork and exec would need `preexec_fn`, which is unsafe in a process with threads; here the
child itself sets it, in its only thread, and exec keeps it. Before it becomes PROGRAM the process notes who it is in
RECORD, so that there is no moment at which a broker runs and nobody could find it again.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, note it, become the program."""
    parent, record, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        return  # the parent died before the death signal was set
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(record, flags, 0o600), "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {started_at(os.getpid())}\n")
    os.execv(command[0], command)  # noqa: S606  no shell is what is wanted


def started_at(pid: int) -> str:
    """Give the kernel's start time of a process in ticks since boot, or nothing if there is no such process."""
    try:
        # The name, in parentheses, may hold anything; start time is field 22, the 20th after it (proc(5)).
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1:])
