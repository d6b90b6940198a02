"""Writers of records, compiled from the .avsc files: see `schemas.compiled`."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from schemas.compiled import Source, function

Writer = Callable[[Any], bytes]

_SMALL: Final = 1024
"""Longs below this are looked up, not computed."""


def zigzag(value: int) -> bytes:
    """Avro's int and long: zig-zag, seven bits a byte, the lowest first."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_NAMES: Final[dict[str, Any]] = {"LONG": tuple(zigzag(value) for value in range(_SMALL)), "zigzag": zigzag}


def compile_writer(schema: Any, header: bytes, classes: Mapping[str, type]) -> Writer:
    """A function from a record to *header* and its Avro body; *classes* has the class of each named type."""
    source = _Writing(schema, classes)
    body = ["def write(r0):", " out = [HEADER]; add = out.append", *source.lines, " return b''.join(out)"]
    write: Writer = function("write", "<write of an .avsc>", body, _NAMES | source.constants | {"HEADER": header})
    return write


class _Writing(Source):
    def root(self, schema: Any) -> None:
        self._put(schema, "r0")

    def _put(self, schema: Any, value: str) -> None:
        schema = self.resolved(schema)
        kind = "union" if isinstance(schema, list) else schema["type"]
        getattr(self, f"_put_{kind}")(schema, value)

    def _put_long(self, _schema: Any, value: str) -> None:
        v = self.new()
        self.line(f"add(LONG[{v}] if 0 <= ({v} := {value}) < {_SMALL} else zigzag({v}))")

    _put_int = _put_long

    def _put_bytes(self, _schema: Any, value: str) -> None:
        v = self.new()
        self.line(f"{v} = {value}")
        self._put_long(None, f"len({v})")
        self.line(f"add({v})")

    def _put_string(self, schema: Any, value: str) -> None:
        self._put_bytes(schema, f"{value}.encode()")

    def _put_boolean(self, _schema: Any, value: str) -> None:
        self.line(f"add(b'\\x01' if {value} else b'\\x00')")

    def _put_fixed(self, schema: Any, value: str) -> None:
        v = self.new()
        self.line(f"if len({v} := {value}) != {schema['size']}: raise ValueError({schema['name']!r})")
        self.line(f"add({v})")

    def _put_enum(self, schema: Any, value: str) -> None:
        table = f"{schema['name']}_symbols"
        self.constants[table] = {symbol: zigzag(index) for index, symbol in enumerate(schema["symbols"])}
        self.line(f"add({table}[{value}])")

    def _put_record(self, schema: Any, value: str) -> None:
        v = self.new()
        self.line(f"{v} = {value}")
        for field in schema["fields"]:
            self._put(field["type"], f"{v}.{field['name']}")

    def _put_array(self, schema: Any, value: str) -> None:
        v, item = self.new(), self.new()
        self.line(f"if {v} := {value}:")
        self.depth += 1
        self._put_long(None, f"len({v})")
        self.line(f"for {item} in {v}:")
        self.depth += 1
        self._put(schema["items"], item)
        self.depth -= 2
        self.line("add(b'\\x00')")

    def _put_union(self, schema: Any, value: str) -> None:
        v = self.new()
        self.line(f"{v} = {value}")
        for index, branch in enumerate(schema):
            resolved = self.resolved(branch)
            null = resolved == {"type": "null"}
            last = index == len(schema) - 1 and schema[0] == "null"
            test = f"{v} is None" if null else f"type({v}) is {self.cls(resolved)}" if not last else ""
            self.line(f"{'elif' if index else 'if'} {test}:" if test else "else:")
            self.depth += 1
            self.line(f"add({zigzag(index)!r})")
            if not null:
                self._put(branch, v)
            self.depth -= 1
        if schema[0] != "null":
            self.line(f"else: raise TypeError(type({v}))")
