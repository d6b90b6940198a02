"""The owner's claim on a cluster's folder, and the cluster's identity that the folder keeps."""

import fcntl
import json
import os
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import IO

from keymill.durable import open_own, own_folder, replace_own
from keymill.errors import Corrupt, Misconfigured
from keymill.kafka.distribution import VERSION


def hold(data: Path) -> IO[str]:
    """
    Make the folder if need be and lock it for as long as the file that is returned stays open.

    Raises:
        Misconfigured: another program holds it, or the folder cannot be written.
    """
    try:
        own_folder(data)
        # Not "w": the file names its owner for whoever comes second.
        file = os.fdopen(open_own(data / "lock", os.O_RDWR | os.O_CREAT), "r+", encoding="ascii")
    except OSError as error:
        raise Misconfigured(f"the Kafka folder {data} cannot be used: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = file.read().strip() or "unknown"
        file.close()
        raise Misconfigured(
            f"the Kafka folder {data} is in use by another keymill (process {owner}): stop it, or choose another folder"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def cluster_id(data: Path, nodes: int) -> str:
    """
    Give the id of the cluster in *data*; a new folder gets one.

    Raises:
        Misconfigured: the folder was made for another number of nodes.
        Corrupt: its note is unreadable.
    """
    note = data / "cluster.json"
    if not note.exists():
        fresh = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        told = json.dumps({"cluster_id": fresh, "nodes": nodes, "made_by": VERSION}) + "\n"
        replace_own(note, told.encode("ascii"))
    try:
        known = json.loads(note.read_text(encoding="ascii"))
        identity, count = str(known["cluster_id"]), int(known["nodes"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{note} is unreadable: restore it, or move the Kafka folder {data} away") from error
    if count != nodes:
        raise Misconfigured(f"the Kafka folder {data} was made for {count} nodes, not {nodes}: choose another folder")
    return identity
