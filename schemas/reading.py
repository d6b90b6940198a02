"""Readers of records, compiled from the .avsc files: see `schemas.compiled`."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from schemas.compiled import Source, function

Read = Callable[[bytes, int], Any]

_FILE: Final = "<read of an .avsc>"

_MAX_SHIFT: Final = 63
"""A long has 64 bits: ten bytes of seven."""


def _rest_of_long(data: bytes, place: int) -> tuple[int, int]:
    """The long whose first byte stands before *place* and is not its last, still zig-zag; and where it ends."""
    value, shift = data[place - 1] & 0x7F, 7
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > _MAX_SHIFT:
            raise ValueError("a number of more than 64 bits")
    if value >> 64:
        raise ValueError("a number of more than 64 bits")
    return value, place


_SHARED: Final = 256
"""How many distinct values of a shared field are kept."""

_NAMES: Final[dict[str, Any]] = {
    "long": _rest_of_long, "BOOLEAN": {0: False, 1: True}, "kept": lru_cache(maxsize=_SHARED),
}  # fmt: skip


class Reader:
    """
    Reads the records of one schema; *classes* has the class of each named type.

    `read` is a function from bytes, and the place where an Avro body begins, to its record, which must end where they
    end. It raises `ValueError`, `IndexError` or `KeyError` for bytes that are no such body, and what the record's own
    checks raise.

    Args:
        shared: the last field of the record, when the same few values of it come again and again: equal bytes then
            give one object. Empty for none.
    """

    def __init__(self, schema: Any, classes: Mapping[str, type], shared: str = "") -> None:
        source = _Reading(schema, classes, shared)
        self._fields = source.fields
        self.read: Read = function("read", _FILE, source.lines, _NAMES | source.constants)

    def field_of(self, error: Exception) -> str:
        """The field at which `read` raised *error*: each of its lines reads one, or `value` where none is to blame."""
        trace, field = error.__traceback__, ""
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == _FILE:
                field = self._fields[trace.tb_lineno - 1]
            trace = trace.tb_next
        return field or "value"


class _Reading(Source):
    def __init__(self, schema: Any, classes: Mapping[str, type], shared: str) -> None:
        self._path: list[str] = []
        self.fields: list[str] = []
        self._shared = shared
        super().__init__(schema, classes)

    def root(self, schema: Any) -> None:
        self._function("def read(d, p):", "size = len(d)", schema)
        if self._shared:
            self._path = [self._shared]
            self._function("@kept\ndef shared(d):", "p, size = 0, len(d)", schema["fields"][-1]["type"])

    def _function(self, head: str, start: str, schema: Any) -> None:
        self.depth = 0
        for line in head.splitlines():
            self.line(line)
        self.depth = 1
        self.line(start)
        self._get(schema, "v0")
        self._path = []
        self.line("if p != size: raise ValueError('the value ends elsewhere')")
        self.line("return v0")

    def line(self, text: str) -> None:
        super().line(text)
        inner = self._path[1:] if self._path[:1] == ["body"] else self._path  # as the records' own checks name it
        self.fields.append(".".join(inner or self._path))

    def _get(self, schema: Any, target: str) -> None:
        schema = self.resolved(schema)
        kind = "union" if isinstance(schema, list) else schema["type"]
        getattr(self, f"_get_{kind}")(schema, target)

    def _raw(self, target: str) -> None:
        self.line(f"{target} = d[p]; p += 1")
        self.line(f"if {target} > 127: {target}, p = long(d, p)")

    def _get_long(self, _schema: Any, target: str) -> None:
        self._raw(target)
        self.line(f"{target} = ({target} >> 1) ^ -({target} & 1)")

    _get_int = _get_long

    def _get_bytes(self, _schema: Any, target: str, then: str = "") -> None:
        self._raw(target)
        self.line(f"e = p + ({target} >> 1)")
        self.line(f"if {target} & 1 or e > size: raise ValueError('length')")
        self.line(f"{target} = d[p:e]{then}; p = e")

    def _get_string(self, schema: Any, target: str) -> None:
        self._get_bytes(schema, target, ".decode()")

    def _get_boolean(self, _schema: Any, target: str) -> None:
        self.line(f"{target} = BOOLEAN[d[p]]; p += 1")

    def _get_fixed(self, schema: Any, target: str) -> None:
        self.line(f"e = p + {schema['size']}")
        self.line("if e > size: raise ValueError('length')")
        self.line(f"{target} = d[p:e]; p = e")

    def _get_enum(self, schema: Any, target: str) -> None:
        table = f"{schema['name']}_symbols"
        cls: Any = self._classes[schema["name"]]
        self.constants[table] = {2 * index: cls(symbol) for index, symbol in enumerate(schema["symbols"])}
        self.line(f"{target} = {table}[d[p]]; p += 1")

    def _get_record(self, schema: Any, target: str) -> None:
        given = []
        for field in schema["fields"]:
            v = self.new()
            self._path.append(field["name"])
            if self._path == [self._shared]:
                self.line(f"{v} = shared(d[p:]); p = size")
            else:
                self._get(field["type"], v)
            self._path.pop()
            given.append(f"{field['name']}={v}")
        self.line(f"{target} = {self.cls(schema)}({', '.join(given)})")

    def _get_array(self, schema: Any, target: str) -> None:
        count, items, item = self.new(), self.new(), self.new()
        self.line(f"{items} = []")
        self._get_long(None, count)
        self.line(f"while {count}:")
        self.depth += 1
        self.line(f"if {count} < 0:")
        self.depth += 1
        self.line(f"{count} = -{count}")
        self._raw("e")
        self.depth -= 1
        self.line(f"if {count} > size - p: raise ValueError('length')")
        self.line(f"for _ in range({count}):")
        self.depth += 1
        self._get(schema["items"], item)
        self.line(f"{items}.append({item})")
        self.depth -= 1
        self._get_long(None, count)
        self.depth -= 1
        self.line(f"{target} = tuple({items})")

    def _get_union(self, schema: Any, target: str) -> None:
        b = self.new()
        self.line(f"{b} = d[p]; p += 1")
        for index, branch in enumerate(schema):
            self.line(f"{'elif' if index else 'if'} {b} == {2 * index}:")
            self.depth += 1
            if branch == "null":
                self.line(f"{target} = None")
            else:
                self._get(branch, target)
            self.depth -= 1
        self.line(f"else: raise IndexError({b})")
