"""One grammar for naming things on a command line: ``name[:argument][:key=value,key=value]``.

    transformers:runs/demo/base/model         name "transformers", argument "runs/demo/base/model"
    word:test                                 name "word",         argument "test"
    word:test:steps=2-5,seed=1                name "word",         argument "test", options
    best_of_n:n=16,scorer=learned:FOLDER      name "best_of_n",    options
    jsonl:data/my.jsonl:question=q,answer=a   a path with a column mapping
    openai:qwen3:base_url=http://host:8000/v1 name "openai",       argument "qwen3", options
    path/to/file.py:name                      user code (see `is_user_code`)

Values stay text here; whoever consumes an option converts it (`take`). An option nobody took is an error.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from reasoning.errors import UserError, unknown
from reasoning.records import digest

_OPTION = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=")
_OPTIONS_AT_END = re.compile(r"^(?:(?P<argument>.*):)?(?P<options>[A-Za-z_][A-Za-z0-9_]*=.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Spec:
    text: str
    name: str
    argument: str = ""
    options: dict[str, str] = field(default_factory=dict)

    def take(self, defaults: dict[str, Any]) -> dict[str, Any]:
        """Options converted to the types of ``defaults``; an unknown key is an error with the nearest name.

        >>> parse_spec("best_of_n:n=16").take({"n": 4, "scorer": ""})
        {'n': 16, 'scorer': ''}
        """
        out = dict(defaults)
        for key, value in self.options.items():
            if key not in defaults:
                raise unknown(f"{self.name!r} option", key, defaults)
            out[key] = convert(value, defaults[key], f"{key} in {self.text!r}")
        return out


def convert(value: str, like: Any, where: str) -> Any:
    """``value`` as the type of ``like`` (bool, int, float or str)."""
    try:
        if isinstance(like, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                value.lower()
            ]
        if isinstance(like, int):
            return int(value)
        if isinstance(like, float):
            return float(value)
    except (ValueError, KeyError):
        raise UserError(f"{where}: {value!r} is not a {type(like).__name__}.") from None
    return value


def parse_spec(text: str) -> Spec:
    """Split a spec. The name ends at the first colon; options begin behind the last colon that is followed by
    ``key=`` (a value may hold colons, as a URL does); whatever lies between is the argument, which may too.

    Raises UserError for an empty spec or a malformed option.

    >>> parse_spec("jsonl:a.jsonl:question=q,answer=a").options
    {'question': 'q', 'answer': 'a'}
    """
    name, _, rest = text.strip().partition(":")
    if not name:
        raise UserError(f"Empty name in {text!r}: write it as name, name:argument or name:key=value.")
    options: dict[str, str] = {}
    if _OPTION.match(rest):  # no argument, so every colon belongs to a value: best_of_n:scorer=learned:FOLDER
        rest, tail = "", rest
    elif found := _OPTIONS_AT_END.match(rest):
        rest, tail = found["argument"], found["options"]
    else:
        tail = ""
    if tail:
        for part in tail.split(","):
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise UserError(
                    f"Malformed option {part!r} in {text!r}: write key=value, separated by commas."
                )
            if key in options:
                raise UserError(f"Option {key!r} is given twice in {text!r}.")
            options[key] = value
    return Spec(text=text, name=name, argument=rest, options=options)


def is_user_code(text: str) -> bool:
    """True for ``path/to/file.py:name``."""
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def load_user_code(text: str) -> Any:
    """The object that ``path/to/file.py:name`` names. The file is run once, as a module of its own.

    Raises UserError when there is no such file or name, or when the file fails while it is run.
    """
    path, _, name = text.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise UserError(f"No such file: {path!r} (from {text!r}).")
    module_name = f"user_code_{digest(str(file.resolve()))}"
    module = sys.modules.get(module_name)
    if module is None:
        loader = SourceFileLoader(module_name, str(file))
        module = ModuleType(module_name)
        module.__file__ = str(file)
        sys.modules[module_name] = module  # before it runs: its dataclasses look their module up
        try:
            loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise UserError(f"{path} failed while it was loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise unknown(f"name in {path}", name, [key for key in vars(module) if not key.startswith("_")])
    return getattr(module, name)
