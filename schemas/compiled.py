"""
Writers and readers of records, compiled from the .avsc files.

One straight function per schema instead of a walk over it: five to ten times as fast as plain values through a
general codec, and stricter, since a negative index or a length beyond the end is refused at once. fastavro stays the
measure: a property test holds both to the same bytes, and schemas of other versions are read with it.

Only what our schemas use exists here; anything else does not compile.
"""

from collections.abc import Mapping
from typing import Any


def function(name: str, file: str, lines: list[str], names: dict[str, Any]) -> Any:
    """The function of that name that *lines* define; tracebacks show *file*."""
    exec(compile("\n".join(lines), file, "exec"), names)  # noqa: S102 our own text, from our schemas
    return names[name]


class Source:
    """Lines of a function, indented as they nest. Temporaries are numbered, so none is ever reused."""

    def __init__(self, schema: Any, classes: Mapping[str, type]) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {}
        self._classes = classes
        self._named: dict[str, Any] = {}
        self.depth = 1
        self._count = 0
        self.root(self.resolved(schema))

    def root(self, schema: Any) -> None:
        """Emit the lines for the whole schema."""
        raise NotImplementedError

    def line(self, text: str) -> None:
        """Emit a line at the present depth."""
        self.lines.append(" " * self.depth + text)

    def new(self) -> str:
        """A temporary that nothing else uses."""
        self._count += 1
        return f"v{self._count}"

    def resolved(self, schema: Any) -> Any:
        """The definition of a named type, or the name of a primitive one as a dict."""
        if isinstance(schema, str):
            return self._named.get(schema, {"type": schema})
        if isinstance(schema, dict) and "name" in schema:
            self._named[schema["name"]] = schema
        return schema

    def cls(self, schema: Any) -> str:
        """The name by which the function knows the class of a named type."""
        name = schema["name"]
        self.constants[name] = self._classes[name]
        return str(name)
