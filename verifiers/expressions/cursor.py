"""A place in a list of tokens, and the parser's state there: depth, open bars, whether inside a set's braces."""

from __future__ import annotations

from verifiers.expressions.lexer import Unreadable
from verifiers.expressions.vocabulary import prepare


class Cursor:
    def __init__(self, found: list[tuple[str, str]], depth: int):
        self.t = prepare(found)
        self.i = 0
        self.depth = depth
        self.bars = 0
        self.builder = False

    @property
    def done(self) -> bool:
        return self.i >= len(self.t)

    @property
    def kind(self) -> str:
        return self.t[self.i][0] if self.i < len(self.t) else ""

    @property
    def text(self) -> str:
        return self.t[self.i][1] if self.i < len(self.t) else "the end"

    def peek(self, ahead: int = 1) -> tuple[str, str]:
        at = self.i + ahead
        return self.t[at] if at < len(self.t) else ("", "")

    def take(self, kind: str, text: str = "") -> bool:
        if self.kind == kind and (not text or self.t[self.i][1] == text):
            self.i += 1
            return True
        return False

    def need(self, kind: str) -> None:
        if not self.take(kind):
            raise Unreadable(f"{kind!r} is missing before {self.text!r}")

    def is_cmd(self, *names: str) -> bool:
        return self.kind == "cmd" and self.t[self.i][1] in names
