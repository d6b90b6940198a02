"""Proof that no processor is at work, for the commands that write in their place."""

import time
from typing import Final

from keymill.errors import NotReady
from keymill.kafka.admin import GroupState, group_state
from keymill.ops.progress import Advance

LOOK_EVERY_S: Final = 1.0


def require_empty(bootstrap: str, group: str, wait_s: float) -> None:
    """
    Return when the consumer group has no member.

    Static members stay for the session timeout after their process has ended, so it may take a while.

    Raises:
        NotReady: somebody is in it after *wait_s*; the message says who.
    """
    until = time.monotonic() + wait_s
    with Advance(f"waiting until group {group} is empty, s", int(wait_s)) as progress:
        while not (state := group_state(bootstrap, group)).empty:
            if time.monotonic() >= until:
                raise NotReady(_occupied(state))
            time.sleep(LOOK_EVERY_S)
            progress.step()


def _occupied(state: GroupState) -> str:
    who = f": {', '.join(state.who)}" if state.who else ""
    return f"the group {state.name} is {state.state} with {state.members} members{who}; stop the processors and repeat"
