"""Options of a command as a frozen dataclass: one declaration serves flags, TOML recipes and Python.

    @dataclass(frozen=True)
    class SampleOptions:
        n: int = option(16, "chains per problem")

`add_flags` turns the fields into flags, `from_mapping` reads a TOML table, `to_toml` writes what was resolved.
This module knows no command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

from reasoning.errors import UserError, unknown

T = TypeVar("T")


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    metavar: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A dataclass field with a help text. A default of ``...`` makes the option required.

    low, high: the smallest and the largest value allowed (of each element of a list); None is no bound.
    """
    metadata = {"help": help, "choices": choices, "metavar": metavar, "low": low, "high": high}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def kind(f: dataclasses.Field[Any], owner: type) -> tuple[type, bool]:
    """(element type, is it a list) of a field; ``X | None`` counts as X."""
    hint = typing.get_type_hints(owner)[f.name]
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    if isinstance(hint, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return hint, False


def flag(name: str) -> str:
    """The flag of a field: ``--max-new-tokens``, ``-n``."""
    return f"-{name}" if len(name) == 1 else "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, owner: type, positional: tuple[str, ...] = ()) -> None:
    """Add every field of ``owner`` to ``parser``. Absent flags stay absent from the namespace, so that a
    recipe's values are overridden by given flags only.

    What a class inherits stands behind its own, under the heading that the class it comes from has as HEADING.
    """
    groups: dict[str, Any] = {}
    bases = [base for base in owner.__mro__[1:] if dataclasses.is_dataclass(base)]
    inherited = {f.name: base for base in bases for f in fields(base)}
    ordered = sorted(fields(owner), key=lambda f: f.name in inherited)
    for f in ordered:
        element, many = kind(f, owner)
        default = None if f.default is MISSING else f.default
        text = f.metadata["help"]
        if f.default is MISSING and f.default_factory is MISSING:
            text += " (required)"
        elif default not in (None, "", False):
            text += f" (default: {default})"
        text = text.replace("%", "%%")
        common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
        if element is not bool:
            common["type"] = _reader(element)
            if f.metadata["choices"]:
                common["choices"] = f.metadata["choices"]
            metavar = f.metadata["metavar"] or {int: "N", float: "X"}.get(element, "")
            if metavar and not f.metadata["choices"]:
                common["metavar"] = metavar
        if f.name in positional:
            # A recipe may give what a command line usually does, so none is required here.
            parser.add_argument(f.name, nargs="*" if many else "?", **common)
            continue
        place: Any = parser
        if heading := getattr(inherited.get(f.name), "HEADING", ""):
            place = groups[heading] if heading in groups else parser.add_argument_group(heading)
            groups[heading] = place
        if element is bool:
            place.add_argument(flag(f.name), action=argparse.BooleanOptionalAction, **common)
        else:
            place.add_argument(flag(f.name), action="append" if many else "store", **common)


def usage(prog: str, owner: type, positional: tuple[str, ...] = ()) -> str:
    """One line: what must be given, and that there are options."""
    needed = []
    for f in sorted(fields(owner), key=lambda f: f.name not in positional):
        required = f.default is MISSING and f.default_factory is MISSING
        name = (f.metadata["metavar"] or f.name.upper()) + (" ..." if kind(f, owner)[1] else "")
        if f.name in positional:
            needed.append(name if required else f"[{name}]")
        elif required:
            needed.append(f"{flag(f.name)} {name}")
    return " ".join([prog, *needed, "[options]"])


def required_flags(owner: type, positional: tuple[str, ...] = ()) -> list[str]:
    """The flags of ``owner`` that must be given."""
    return [
        flag(f.name)
        for f in fields(owner)
        if f.default is MISSING and f.default_factory is MISSING and f.name not in positional
    ]


def from_mapping(owner: type[T], values: Mapping[str, Any], where: str) -> T:
    """An ``owner`` from plain values. Raises UserError for an unknown key (with the nearest), a value of the
    wrong type, one out of bounds or a missing required one."""
    known = {f.name: f for f in fields(owner)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise unknown(f"key in {where}", key, known)
        element, many = kind(known[name], owner)
        items = value if many and isinstance(value, list) else [value]
        read = [_checked(item, element, f"{key} in {where}") for item in items]
        choices = known[name].metadata["choices"]
        for item in read:
            if choices and item not in choices:
                raise unknown(key, str(item), choices)
            _check_bounds(name, item, known[name].metadata["low"], known[name].metadata["high"])
        given[name] = read if many else read[0]
    for name, f in known.items():
        if name not in given and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{where} needs {f.metadata['metavar'] or flag(name)}: {f.metadata['help']}.")
    return owner(**given)


def to_toml(values: Mapping[str, Any]) -> str:
    """A flat mapping, or one of tables, as TOML. None is left out."""
    lines = [f"{k} = {_toml(v)}" for k, v in values.items() if v is not None and not isinstance(v, Mapping)]
    for name, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{name}]", to_toml(table).rstrip()]
    return "\n".join(lines).strip() + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=True)


def _reader(element: type) -> Any:
    def read(text: str) -> Any:
        try:
            return _number(text, element)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"{_short(text)} is not a {_noun(element)}") from None

    return read


def _number(text: str, element: type) -> Any:
    """Raises ValueError or OverflowError for what is no finite number, or no whole number of 64 bits."""
    if element is int:  # 2e6 is what people write for a budget
        as_float = float(text)
        if as_float != int(as_float):
            raise ValueError(text)
        value = int(text) if text.lstrip("+-").isdigit() else int(as_float)
        if not -(2**63) <= value < 2**63:
            raise OverflowError(text)
        return value
    value = element(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value


def _checked(value: Any, element: type, where: str) -> Any:
    if element in (int, float):
        if not isinstance(value, bool):
            try:
                return _number(str(value), element)
            except (ValueError, OverflowError):
                pass
    elif isinstance(value, element):
        if isinstance(value, str) and "\0" in value:  # no path, name or spec may hold one
            raise UserError(f"{where}: {_short(value)} holds a NUL character.")
        return value
    raise UserError(f"{where}: {_short(value)} is not a {_noun(element)}.")


def _check_bounds(name: str, value: Any, low: float | None, high: float | None) -> None:
    if (low is None or value >= low) and (high is None or value <= high):
        return
    if low is None:
        allowed = f"{high} or below"
    else:
        allowed = f"{low} or above" if high is None else f"between {low} and {high}"
    raise UserError(f"{flag(name)} must be {allowed}, not {value}.")


def _short(value: Any) -> str:
    """A value for a message: what was mistyped may be very long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def _noun(element: type) -> str:
    return {int: "whole number", float: "finite number", bool: "true or false", str: "text"}.get(
        element, element.__name__
    )
