"""Writers of records, compiled from the .avsc files: see `schemas.compiled`."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn

from schemas.compiled import Source, function

Writer = Callable[[Any], bytes]

_SMALL: Final = 1024
"""Longs below this are looked up, not computed."""


@lru_cache(maxsize=4096)
def zigzag(value: int) -> bytes:
    """Avro's int and long: zig-zag, seven bits a byte, the lowest first. One record has the same number many times."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


_SHARED: Final = 256
"""How many distinct values of a shared field are kept."""

_NAMES: Final[dict[str, Any]] = {
    "LONG": tuple(zigzag(value) for value in range(_SMALL)), "zigzag": zigzag, "refuse": _refuse,
    "kept": lru_cache(maxsize=_SHARED),
}  # fmt: skip


def compile_writer(schema: Any, header: bytes, classes: Mapping[str, type], shared: str = "") -> Writer:
    """
    A function from a record to *header* and its Avro body; *classes* has the class of each named type.

    Args:
        shared: the dotted path of a field of which the same few values come again and again: the bytes of equal ones
            are made once. Empty for none.
    """
    source = _Writing(schema, classes, shared)
    names = _NAMES | source.constants | {"HEADER": header}
    write: Writer = function("write", "<write of an .avsc>", source.lines, names)
    return write


class _Writing(Source):
    """Each `_put` is given an expression, and evaluates it once, before anything else that it emits."""

    def __init__(self, schema: Any, classes: Mapping[str, type], shared: str) -> None:
        self._path: list[str] = []
        self._pieces: list[str] = []
        self._shared = shared.split(".")
        super().__init__(schema, classes)

    def root(self, schema: Any) -> None:
        self._function(["def write(r0):", " out = [HEADER]"], schema)

    def _function(self, head: list[str], schema: Any) -> None:
        """A function in front of those that are there."""
        outer, self.lines, depth, self.depth = self.lines, head, self.depth, 1
        pieces, self._pieces = self._pieces, []
        self._put(schema, "r0")
        self.line("return b''.join(out)")
        self.lines, self.depth, self._pieces = [*self.lines, *outer], depth, pieces

    def line(self, text: str) -> None:
        self._flush()
        super().line(text)

    def _flush(self) -> None:
        """Emit what was put since the last line, as one tuple: half the price of as many appends."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            super().line(f"out += ({', '.join(pieces)},)")

    def _put(self, schema: Any, value: str) -> None:
        schema = self.resolved(schema)
        kind = "union" if isinstance(schema, list) else schema["type"]
        if (pieces := self._simple(kind, schema, value)) is not None:
            self._pieces += pieces
        else:
            getattr(self, f"_put_{kind}")(schema, value)

    def _simple(self, kind: str, schema: Any, value: str) -> list[str] | None:
        """Expressions of what needs no statement: their bytes follow each other."""
        v, pieces = self.new(), None
        match kind:
            case "int" | "long":
                pieces = [f"LONG[{v}] if 0 <= ({v} := {value}) < {_SMALL} else zigzag({v})"]
            case "bytes" | "string":
                encoded = f"{value}.encode()" if kind == "string" else value
                pieces = [*(self._simple("long", None, f"len({v} := {encoded})") or ()), v]
            case "boolean":
                pieces = [f"b'\\x01' if {value} else b'\\x00'"]
            case "fixed":
                pieces = [f"{v} if len({v} := {value}) == {schema['size']} else refuse({schema['name']!r})"]
            case "enum":
                table = f"{schema['name']}_symbols"
                self.constants[table] = {symbol: zigzag(index) for index, symbol in enumerate(schema["symbols"])}
                pieces = [f"{table}[{value}]"]
            case "union":
                pieces = self._simple_optional(schema, value)
        return pieces

    def _simple_optional(self, schema: Any, value: str) -> list[str] | None:
        if len(schema) != 2 or schema[0] != "null":
            return None
        v, branch = self.new(), self.resolved(schema[1])
        if isinstance(branch, list) or (pieces := self._simple(branch["type"], branch, v)) is None:
            return None
        there = " + ".join(f"({piece})" for piece in pieces)
        return [f"b'\\x00' if ({v} := {value}) is None else b'\\x02' + {there}"]

    def _put_record(self, schema: Any, value: str) -> None:
        v = self.new()
        first = f"({v} := {value})"
        for field in schema["fields"]:
            self._path.append(field["name"])
            if self._path == self._shared:
                self._function(["@kept", "def shared(r0):", " out = []"], field["type"])
                self._pieces.append(f"shared({first}.{field['name']})")
            else:
                self._put(field["type"], f"{first}.{field['name']}")
            self._path.pop()
            first = v

    def _put_array(self, schema: Any, value: str) -> None:
        v, item = self.new(), self.new()
        self.line(f"if {v} := {value}:")
        self.depth += 1
        self._put("long", f"len({v})")
        self.line(f"for {item} in {v}:")
        self.depth += 1
        self._put(schema["items"], item)
        self._flush()
        self.depth -= 2
        self._pieces.append("b'\\x00'")

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
            self._pieces.append(repr(zigzag(index)))
            if not null:
                self._put(branch, v)
            self._flush()
            self.depth -= 1
        if schema[0] != "null":
            self.line(f"else: raise TypeError(type({v}))")
