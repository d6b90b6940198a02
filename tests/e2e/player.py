"""A player: asks a proxy for licenses, and keeps fingerprints instead of keys."""

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jwt

from keymill.core.derive import fingerprint
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.token_keys import algorithm_of, key_id_of, signing_key
from keymill.secret import Secret
from tests.drawn import ORGANIZATION
from tests.e2e.observe import Observer
from tests.e2e.programs import get, wait_for
from tests.history import Served


class Player:
    """Asks a proxy for licenses of all keys of an asset (`/getlicense`), and keeps fingerprints instead of keys."""

    def __init__(self, proxy: str, data: Path, observer: Observer, served: list[Served]) -> None:
        self._proxy, self._data, self._observer, self._served = proxy, data, observer, served
        self._k_fp = Keyring(KeyFile(data / "keys.json")).k_fp(ORGANIZATION)

    def ask(self, asset: str) -> int:
        """One request; the status. The asset's KIDs must have been observed."""
        kids = self._observer.kids.get(asset) or {}
        if not kids:
            return 0
        kid = next(iter(list(kids)))
        query = f"service=demo&version=1.0&kid={kid.hex()}&ptoken={token_for(self._data, asset)}"
        challenge = json.dumps({"kids": [b64(kid)], "type": "temporary"}).encode()
        status, body = get(f"{self._proxy}/getlicense?{query}", challenge)
        if status == 200:
            self._note(asset, {unb64(key["kid"]): unb64(key["k"]) for key in json.loads(body)["keys"]})
        return status

    def _note(self, asset: str, keys: Mapping[bytes, bytes]) -> None:
        at_ns = time.time_ns()
        wait_for(lambda: keys.keys() <= self._observer.kids[asset].keys(), 10)
        versions = self._observer.kids[asset]
        prints = {kid.hex(): fingerprint(self._k_fp, kid, Secret(key)).hex() for kid, key in keys.items()}
        self._served.append(
            Served(
                at_ns=at_ns,
                proxy="proxy",
                organization=ORGANIZATION,
                asset=asset,
                fingerprints=prints,
                key_version=max(versions[kid] for kid in keys),
            )
        )

    @contextmanager
    def asking(self, names: Callable[[], list[str]], seed: random.Random) -> Iterator[None]:
        """Ask for one asset after the other, in a thread, inside the block."""
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.02):
                if known := names():
                    self.ask(seed.choice(known))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)


def token_for(data: Path, asset: str) -> str:
    """A player token, as `keymill token issue` makes it."""
    _, key = signing_key(data, ORGANIZATION)
    assert key is not None
    claims = {"organization": ORGANIZATION, "asset": asset, "exp": int(time.time()) + 3600}
    headers = {"kid": key_id_of(key.public_key())}
    return jwt.encode(claims, key, algorithm=algorithm_of(key.public_key()), headers=headers)


def b64(value: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The inverse."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
