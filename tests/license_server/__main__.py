"""
The license server as a program. Its first line on stdout is JSON, `{"port": …}`.

`POST /_control` `{"next": [misbehaviour, …]}` decides about the license requests that follow, one each, and takes a new
`fingerprint_key`; `GET /_requests` lists those that came, `DELETE /_requests` forgets them. A misbehaviour is `{"mode":
…}` and what it needs.
"""

import argparse
import asyncio
import json
import socket
import ssl
import struct
import sys
from typing import Any

import msgspec

from keymill.process import end_with_parent
from tests.license_server.protocols import Answered, Known, Request, answer

REASONS = {200: "OK"}


class LicenseServer:
    """What came, and what is to happen to what comes."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.seen: list[dict[str, Any]] = []
        self.next: list[dict[str, Any]] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        self.connections += 1
        try:
            while request := await read_request(reader):
                method, got = request
                if got.path.startswith("/_"):
                    reply(writer, 200, "application/json", json.dumps(self.control(method, got)).encode())
                else:
                    await self.license(got, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def control(self, method: str, request: Request) -> Any:
        """The inspection endpoint."""
        if request.path == "/_control":
            told = json.loads(request.body)
            self.next = told.get("next", [])
            self.known.fingerprint_key = told.get("fingerprint_key", self.known.fingerprint_key)
        elif method == "DELETE":
            self.seen.clear()
        return {"requests": self.seen, "connections": self.connections}

    async def license(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """One license request, answered well or as it was told."""
        try:
            answered = answer(request, self.known)
        except (KeyError, ValueError) as error:
            answered = Answered(400, "text/plain", b"not understood", {"problem": type(error).__name__})
        self.seen.append(answered.seen)
        wish = self.next.pop(0) if self.next else {"mode": "well"}
        await misbehave(wish, answered, writer)


async def misbehave(wish: dict[str, Any], answered: Answered, writer: asyncio.StreamWriter) -> None:
    """Answer as told; `well` is the answer itself."""
    status, kind, body = answered.status, answered.content_type, answered.body
    match wish["mode"]:
        case "well":
            reply(writer, status, kind, body, wish.get("headers", {}))
        case "slow":
            await asyncio.sleep(wish["seconds"])
            reply(writer, status, kind, body)
        case "trickle":
            writer.write(head(status, kind, len(body), {}))
            for byte in body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(wish["seconds"])
        case "status":
            reply(writer, wish["status"], wish.get("content_type", "text/plain"), wish.get("body", "no").encode())
        case "body":
            reply(writer, 200, wish.get("content_type", kind), wish["body"].encode())
        case "redirect":
            reply(writer, 307, "text/plain", b"elsewhere", {"Location": wish["location"]})
        case "huge":
            reply(writer, 200, kind, b"x" * wish["bytes"])
        case "compressed":
            reply(writer, 200, kind, body, {"Content-Encoding": "gzip"})
        case "truncated":
            writer.write(head(200, kind, len(body) + 10, {}) + body)
            await writer.drain()
            writer.close()
        case "no_http":
            writer.write(b"\x00\x01\x02 this is no HTTP\r\n\r\n")
            await writer.drain()
            writer.close()
        case "reset":
            reset(writer)
        case unknown:
            raise SystemExit(f"no misbehaviour {unknown}")


def reset(writer: asyncio.StreamWriter) -> None:
    """An RST instead of an end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def head(status: int, content_type: str, size: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"Content-Length: {size}", "X-Double: yes"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def reply(
    writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None
) -> None:
    writer.write(head(status, content_type, len(body), headers or {}) + body)


async def read_request(reader: asyncio.StreamReader) -> tuple[str, Request] | None:
    """The next request of a connection; None at its end."""
    try:
        block = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = block.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return method, Request(path=path, headers=headers, body=body)


async def run(options: argparse.Namespace, known: Known) -> None:
    tls = None
    if options.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.cert)
    double = LicenseServer(known)
    server = await asyncio.start_server(double.serve, "127.0.0.1", options.port, ssl=tls, limit=1 << 20)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.license_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", help="PEM file of certificate and key: speak TLS")
    parser.add_argument("--parent", type=int, help="end with this process")
    options = parser.parse_args()
    if options.parent:
        end_with_parent(options.parent)
    asyncio.run(run(options, msgspec.json.decode(sys.stdin.buffer.read(), type=Known)))


if __name__ == "__main__":
    main()
