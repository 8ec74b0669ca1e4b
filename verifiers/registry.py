"""Opens verifiers by name: one table, nothing registered by importing, each module imported when asked for.

exact                       name
learned:runs/demo/scorer    name:argument
numeric:tolerance=1e-4      name:key=value,key=value
path/to/file.py:reward      user code: a Verifier, a function, or what makes one
math*1.0+format*0.1         a weighted mean of the above
pooled:math                 any of the above in killable worker processes
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from verifiers.base import Verifier
from verifiers.errors import VerifierError

TABLE: dict[str, str] = {
    "choice": "verifiers.patterns:Choice",
    "code": "verifiers.code:Code",
    "countdown": "verifiers.countdown:Countdown",
    "exact": "verifiers.exact:Exact",
    "format": "verifiers.patterns:Format",
    "game24": "verifiers.countdown:game24",
    "gym": "verifiers.gym:open_gym",
    "gym_scorer": "verifiers.gym:Scorer",
    "json": "verifiers.patterns:Json",
    "judge": "verifiers.judge_server:open_judge",
    "learned": "verifiers.learned:open_learned",
    "math": "verifiers.mathematics:Mathematics",
    "numeric": "verifiers.numeric:Numeric",
    "pooled": "verifiers.pool:Pooled",
    "regex": "verifiers.patterns:Regex",
}
"""Name -> "module:factory". A factory takes the spec's argument (if its first parameter has no default
or is named ``argument``) and its options as keywords; an option's default gives its type."""

_WHOLE_ARGUMENT = ("pooled", "regex")
_OPTION = re.compile(r"^[A-Za-z_]\w*=")
_OPTIONS_AT_END = re.compile(r"^(.*):([A-Za-z_]\w*=.*)$", re.DOTALL)
_WEIGHT = re.compile(r"\*\s*([-+]?\d+(?:\.\d*)?|[-+]?\.\d+)\s*$")
_USER_CODE = re.compile(r"^(?P<path>[^:]*\.py):(?P<name>[A-Za-z_]\w*)(?::(?P<options>.*))?$")


def open_verifier(spec: str, **options: Any) -> Verifier:
    """The verifier that ``spec`` names (grammar above). Keyword ``options`` override those in the spec
    and may be values of any type.

    Raises VerifierError for an unknown name (with the nearest one), option or file.

    >>> open_verifier("numeric").verify([Attempt(response="The answer is 1,234.", reference=1234)])[0].answer
    '1234'
    """
    if not isinstance(spec, str) or not spec.strip():
        raise VerifierError(f"A verifier is named by text such as 'math' or 'numeric', not {spec!r}.")
    spec = spec.strip()
    code = _USER_CODE.match(spec)
    terms = [(spec, None)] if spec.startswith("pooled:") else _terms(spec)
    single = len(terms) == 1 and terms[0][1] is None
    if code and (single or ("+" in code["path"] and Path(code["path"]).expanduser().is_file())):
        return _open_user_code(
            spec, code["path"], code["name"], {**_options(code["options"] or "", spec), **options}
        )
    if not single:
        from verifiers.composite import Weighted

        if options:
            raise VerifierError(
                f"{spec!r} is a composition; write its options into the spec of the term they belong to."
            )
        return Weighted([(open_verifier(term), 1.0 if weight is None else weight) for term, weight in terms])
    name, _, rest = spec.partition(":")
    if name not in TABLE and name.endswith(".py"):
        raise VerifierError(f"{spec!r} names a file and no function in it: write {name}:FUNCTION.")
    if name not in TABLE:
        raise VerifierError(unknown_name("verifier", name, TABLE))
    argument, text_options = (rest, {}) if name in _WHOLE_ARGUMENT else _split(rest, spec)
    module, _, factory = TABLE[name].partition(":")
    make = getattr(importlib.import_module(module), factory)
    return _call(make, name, argument, {**text_options, **options})


def refuse_unknown(spec: str) -> None:
    """Raise VerifierError for a name in ``spec`` that no verifier has. Nothing is opened."""
    code = _USER_CODE.match(spec)
    for term, _ in [] if code or spec.startswith("pooled:") else _terms(spec):
        name = term.partition(":")[0]
        if name not in TABLE and not _USER_CODE.match(term):
            raise VerifierError(unknown_name("verifier", name, TABLE))


def verifier_names() -> list[str]:
    return sorted(TABLE)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """One line for an unknown name, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint}  (known: {', '.join(known)})"


def _terms(spec: str) -> list[tuple[str, float | None]]:
    """``a*2+b`` as terms with weights. A plus sign separates only before a known name or a .py file, so that
    ``regex:a+b`` stays whole."""
    parts = re.split(rf"\+(?=\s*(?:(?:{'|'.join(map(re.escape, TABLE))})\s*(?:[:*+]|$)|[^+:*]*\.py:))", spec)
    terms = []
    for part in parts:
        weight = _WEIGHT.search(part)
        if weight and part[: weight.start()].strip():
            term, number = part[: weight.start()].strip(), float(weight.group(1))
            if number < 0:
                raise VerifierError(
                    f"The weight of {term!r} is {number:g} in {spec!r}: weights are 0 or above."
                )
            terms.append((term, number))
        else:
            terms.append((part.strip(), None))
    return terms


def _split(rest: str, spec: str) -> tuple[str, dict[str, str]]:
    """The argument and the options of what follows the name."""
    if _OPTION.match(rest):
        return "", _options(rest, spec)
    if found := _OPTIONS_AT_END.match(rest):  # a value may hold colons: judge:URL:model=qwen3:8b
        return found[1], _options(found[2], spec)
    return rest, {}


def _options(text: str, spec: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise VerifierError(
                f"Malformed option {part!r} in {spec!r}: write key=value, separated by commas."
            )
        if key in options:
            raise VerifierError(f"Option {key!r} is given twice in {spec!r}.")
        options[key] = value
    return options


def _call(make: Callable[..., Any], name: str, argument: str, options: dict[str, Any]) -> Any:
    parameters = [p for p in inspect.signature(make).parameters.values() if p.kind is not p.VAR_KEYWORD]
    takes_argument = bool(parameters) and (
        parameters[0].default is parameters[0].empty or parameters[0].name == "argument"
    )
    positional = []
    if takes_argument:
        if (
            not argument
            and parameters[0].default is parameters[0].empty
            and parameters[0].name not in options
        ):
            raise VerifierError(f"Verifier {name!r} needs an argument: write {name}:<{parameters[0].name}>.")
        positional = [argument] if argument else []
    elif argument:
        raise VerifierError(f"Verifier {name!r} takes no argument (got {argument!r}); options are key=value.")
    known = {
        p.name: p
        for p in parameters[len(positional) :]
        if not (p.kind is p.KEYWORD_ONLY and p.name == "name")
    }
    values = {}
    for key, value in options.items():
        if key not in known:
            raise VerifierError(unknown_name(f"option of verifier {name!r}", key, known))
        values[key] = _convert(value, known[key].default, f"{key} of verifier {name!r}")
    return make(*positional, **values)


def _convert(value: Any, like: Any, where: str) -> Any:
    """Text as the type of a default; a value that is not text is taken as it is."""
    if not isinstance(value, str) or isinstance(like, str):
        return value
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
        raise VerifierError(f"{where}: {value!r} is not a {type(like).__name__}.") from None
    return value


def _open_user_code(spec: str, path: str, name: str, options: dict[str, Any]) -> Verifier:
    from verifiers.functions import FunctionVerifier

    file = Path(path).expanduser()
    if not file.is_file():
        raise VerifierError(f"No such file: {path} (from {spec!r}).")
    module_name = "verifiers_user_" + re.sub(r"\W", "_", str(file.resolve()))
    loader = importlib.util.spec_from_file_location(module_name, file)
    if loader is None or loader.loader is None:
        raise VerifierError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(loader)
    sys.modules[module_name] = module
    try:
        loader.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise VerifierError(f"{path} fails to load: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise VerifierError(unknown_name(f"name in {path}", name, names))
    thing = getattr(module, name)
    if inspect.isclass(thing):
        thing = _call(thing, name, "", options)
        options = {}
    if isinstance(thing, Verifier):
        if options:
            raise VerifierError(f"{spec!r} is a verifier already; it takes no options.")
        return thing
    if callable(thing):
        ends = {"low": 0.0, "high": 1.0}
        for key, value in options.items():
            if key not in ends:
                raise VerifierError(unknown_name(f"option of {path}:{name}", key, ends))
            ends[key] = _convert(value, ends[key], f"{key} of {path}:{name}")
        return FunctionVerifier(thing, name=spec, **ends)
    raise VerifierError(f"{name} in {path} is {type(thing).__name__}, neither a verifier nor a function.")
