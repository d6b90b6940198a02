"""
One HTTP worker process: `python -m keymill.proxy.worker`, told on stdin what to serve and on which inherited socket.

A fresh process instead of a fork: LMDB environments and threads do not survive one. Exit status: 0 stopped; 78 going on
would do harm, and only a person can help.
"""

import gc
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from keymill import telemetry
from keymill.config import ProxySettings
from keymill.errors import KeymillError, Stop
from keymill.http.admin import port_of
from keymill.http.server import serve
from keymill.kms.keyfile import KeyFile
from keymill.process import end_with_parent
from keymill.proxy import frozen
from keymill.proxy.app import application
from keymill.proxy.life import Life
from keymill.proxy.standing import StandingFile
from schemas.values import Record

EXIT_STOP: Final = 78
"""EX_CONFIG of sysexits.h"""
log = telemetry.logger("proxy.worker")


class Told(Record, frozen=True, kw_only=True):
    """
    What the parent tells a worker.

    `listening` and `admin` are inherited descriptors, the latter -1 where there is no admin port; `parent` is the
    process to die with, `standing` the file that it answers in.
    """

    settings: dict[str, Any]
    listening: int
    admin: int = -1
    parent: int
    standing: str


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    told = msgspec.json.decode(sys.stdin.buffer.read(), type=Told)
    end_with_parent(told.parent)
    settings = ProxySettings(**told.settings)
    telemetry.configure("proxy", settings.log_level)
    _quiet()
    frozen.show(Path(told.standing).parent)
    try:
        life = Life(settings, KeyFile(settings.keys_path), StandingFile(Path(told.standing)))
        bound = socket.socket(fileno=told.listening)
        admin = socket.socket(fileno=told.admin) if told.admin >= 0 else None
        app = application(life, main_port=port_of(bound), admin_port=port_of(admin) if admin else None)
        return serve(app, settings=settings, bound=bound, readiness=life.readiness, admin=admin)
    except Stop as error:
        log.critical("worker stopped", reason=str(error))
        return EXIT_STOP
    except KeymillError as error:
        log.error("worker ended", reason=str(error))
        return os.EX_TEMPFAIL


def _quiet() -> None:
    """Few and short pauses: what was loaded is not searched for cycles again, and a thread hands over within 1 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.001)


if __name__ == "__main__":
    sys.exit(main())
