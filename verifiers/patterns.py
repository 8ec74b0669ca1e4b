"""`choice`, `regex`, `json` and `format`: verifiers of an answer's letter, its pattern, its structure, its tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from verifiers.base import Attempt, Verdict
from verifiers.errors import VerifierError
from verifiers.extract import MAX_CHARACTERS, final_part, statement
from verifiers.judging import BadReference, RuleVerifier, no_answer, shown
from verifiers.normalise import plain_unicode, squeeze, unwrap
from verifiers.reading import plain_words

_LETTER = re.compile(
    r"^\W*(?:(?:option|choice|answer)\s*(?:is\s*)?[:(]?\s*)?\(?\s*(?:\\text\w*\s*\{\s*\(?)?([A-Za-z])\)?\}?"
    r"(?:[.):]|\s*\\|\s*$|\s*[-\u2013]\s|\s*\}|(?:\s+(?:because|since|as|is correct)\b))",
    re.IGNORECASE,
)
_BARE = re.compile(r"^\W*([A-Za-z])\W*$")


class Choice(RuleVerifier):
    """A multiple-choice letter. The reference is a letter; the response states one ("The answer is (B).",
    ``\\boxed{B}``), or the text of an option that ``metadata["choices"]`` lists in order (or by letter).

    letters: how many options there are; a letter beyond them is no answer.
    """

    def __init__(self, letters: int = 26):
        if not 2 <= letters <= 26:
            raise VerifierError(f"choice: letters must lie in 2..26, not {letters}")
        self.letters = letters
        self.name = f"choice:letters={letters}" if letters != 26 else "choice"

    def judge(self, attempt: Attempt) -> Verdict:
        options = _options(attempt.metadata)
        reference = attempt.reference
        gold = (
            self._letter(reference, options)
            if isinstance(reference, str) and len(reference) < 10_000
            else None
        )
        if gold is None:
            raise BadReference(f"choice needs a letter or one of the options, not {shown(reference)!r}")
        answer, trouble = self._answer(attempt.response, options)
        if answer is None:
            return trouble
        equal = answer == gold
        return Verdict(
            float(equal), answer, rule="choice", reason="equal" if equal else f"{answer} is not {gold}"
        )

    def stated(self, response: str) -> str | None:
        return self._answer(response, {})[0]

    def _answer(self, response: str, options: dict[str, str]) -> tuple[str | None, Verdict]:
        found = statement(response)
        if found is None:
            text = final_part(response).strip()
            if not text or len(text) > 400:
                return None, no_answer("the response states no choice" if text else "the response is empty")
            texts = {text}
        else:
            texts = {found.text, *found.others}
        letters = {self._letter(text, options) for text in texts}
        if None in letters:
            return None, Verdict(0.0, status="unparsable", reason=f"{shown(texts.pop())!r} is no choice")
        if len(letters) > 1:
            return None, Verdict(0.0, status="ambiguous", reason="boxes with different choices")
        return letters.pop(), no_answer()

    def _letter(self, text: str, options: dict[str, str]) -> str | None:
        text = unwrap(plain_unicode(text[:2_000]).strip())
        match = _BARE.match(text) or _LETTER.match(text)
        if match:
            letter = match.group(1).upper()
            if not (options and letter not in options) and ord(letter) - ord("A") < self.letters:
                return letter
        words = plain_words(text)
        named = [letter for letter, option in options.items() if words and words == option]
        return named[0] if len(named) == 1 else None


def _options(metadata: Any) -> dict[str, str]:
    given = metadata.get("choices") if isinstance(metadata, Mapping) else None
    if isinstance(given, Mapping):
        return {str(k).strip().upper(): plain_words(str(v)) for k, v in given.items()}
    if isinstance(given, list | tuple) and len(given) <= 26:
        return {chr(ord("A") + i): plain_words(_unlabelled(str(v))) for i, v in enumerate(given)}
    return {}


def _unlabelled(option: str) -> str:
    return re.sub(r"^\s*\(?[A-Z]\s*[).:]\s*", "", option)


class Regex(RuleVerifier):
    """The response matches a pattern (Python's ``re``). The pattern is the spec's argument ("regex:^yes$"), or
    where that is empty the reference, which comes from the task, never from a model.

    Votes for the first group, or for the whole match. Only the last 20,000 characters are searched; patterns with
    nested repetition are refused, because they can take for ever.
    """

    def __init__(self, argument: str = ""):
        self.pattern = argument
        self.oracle = not self.pattern
        self.name = f"regex:{self.pattern}" if self.pattern else "regex"
        if self.pattern:
            try:
                _compiled(self.pattern)
            except BadReference as error:
                raise VerifierError(f"regex: {error}") from None

    def judge(self, attempt: Attempt) -> Verdict:
        pattern = self.pattern or attempt.reference
        if not isinstance(pattern, str) or not pattern:
            raise BadReference("regex needs a pattern: write regex:<pattern> or give it as the reference")
        match = None
        for match in _compiled(pattern).finditer(final_part(attempt.response)[-20_000:]):  # noqa: B007
            pass
        if match is None:
            return Verdict(0.0, status="no_answer", rule="regex", reason=f"no match of {shown(pattern)!r}")
        answer = next((g for g in match.groups() if g is not None), match.group())
        return Verdict(1.0, squeeze(answer)[:400], rule="regex", reason=f"matches {shown(pattern)!r}")


_NESTED = re.compile(r"\((?:[^()\\]|\\.)*[*+}](?:[^()\\]|\\.)*\)\s*[*+{]")


def _compiled(pattern: str) -> re.Pattern[str]:
    if len(pattern) > 2_000 or _NESTED.search(pattern):
        raise BadReference("the pattern is too long or nests repetitions, which can take for ever")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadReference(f"the pattern {shown(pattern)!r} is not a regular expression: {error}") from None


_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


class Json(RuleVerifier):
    """The response ends in JSON (bare, or the last fenced block) that fits a schema and, where a reference is
    given, equals it.

    schema: ``metadata["schema"]``, the keywords type, properties, required, additionalProperties, items, enum, const,
    minimum, maximum, minLength, maxLength, minItems, maxItems; any other keyword makes the reference unusable.
    """

    name = "json"

    def judge(self, attempt: Attempt) -> Verdict:
        schema = attempt.metadata.get("schema") if isinstance(attempt.metadata, Mapping) else None
        reference = attempt.reference
        if isinstance(reference, str):
            try:
                reference = json.loads(reference)
            except (ValueError, RecursionError):
                raise BadReference("the reference is not JSON") from None
        if schema is None and _is_schema(reference):
            raise BadReference(
                'the reference looks like a schema: give it as metadata["schema"]; a reference is the JSON that the '
                "answer must equal"
            )
        if schema is None and reference is None:
            raise BadReference('json needs a reference or metadata["schema"]')
        if schema is not None:
            _check_schema(schema)
        try:
            value = _json_in(attempt.response)
        except (ValueError, RecursionError) as error:
            return Verdict(0.0, status="unparsable", reason=f"not JSON: {shown(error)}")
        answer = json.dumps(value, sort_keys=True)
        trouble = _misfit(value, schema, "the value") if schema is not None else ""
        if not trouble and reference is not None and not _same_json(value, reference):
            trouble = "not equal to the reference"
        return Verdict(float(not trouble), answer[:2_000], rule="json", reason=trouble or "fits")

    def stated(self, response: str) -> str | None:
        return json.dumps(_json_in(response), sort_keys=True)[:2_000]


def _is_schema(value: Any) -> bool:
    """Whether a reference is a schema in the wrong place, which no answer would equal."""
    if not isinstance(value, Mapping):
        return False
    kinds = value.get("type")
    return "$schema" in value or (
        isinstance(kinds, str) and kinds in _TYPES and set(value) <= _KEYWORDS | _NOTES
    )


def _json_in(response: str) -> Any:
    text = final_part(response).strip()
    fenced = _FENCE.findall(text)
    return json.loads(fenced[-1] if fenced else text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _same_json(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same_json(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_same_json(a, b) for a, b in zip(left, right, strict=True))
    return left == right


_LIMITS = {"minimum": 1, "maximum": -1, "minLength": 1, "maxLength": -1, "minItems": 1, "maxItems": -1}
_KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "enum", "const", *_LIMITS}
_NOTES = {"title", "description", "$schema", "examples", "default", "$id"}


def _check_schema(schema: Any, depth: int = 0) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping) or depth > 40:
        raise BadReference("the schema is not a JSON object")
    other = set(map(str, schema)) - _KEYWORDS - _NOTES
    if other:
        raise BadReference(f"the schema uses {', '.join(sorted(other))}, which is not supported")
    kinds = schema.get("type", [])
    if any(kind not in _TYPES for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        raise BadReference(f"the schema's type {kinds!r} is not known")
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        raise BadReference("the schema's properties are not an object")
    for inner in [*properties.values(), schema.get("items", True), schema.get("additionalProperties", True)]:
        _check_schema(inner, depth + 1)


def _misfit(value: Any, schema: Any, where: str) -> str:
    """What does not fit, or "" where all does."""
    if isinstance(schema, bool):
        return "" if schema else f"{where} is not allowed"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} is not {' or '.join(kinds)}"
    if "enum" in schema and not any(_same_json(value, v) for v in schema["enum"]):
        return f"{where} is not among the allowed values"
    if "const" in schema and not _same_json(value, schema["const"]):
        return f"{where} is not the constant"
    for keyword, sign in _LIMITS.items():
        if keyword in schema:
            size = _size(value, keyword)
            if size is not None and (size - schema[keyword]) * sign < 0:
                return f"{where} breaks {keyword} {schema[keyword]}"
    if isinstance(value, dict):
        for key in schema.get("required", []):
            if key not in value:
                return f"{where} lacks {key!r}"
        properties = schema.get("properties", {})
        for key, item in value.items():
            trouble = _misfit(item, properties.get(key, schema.get("additionalProperties", True)), f"{key!r}")
            if trouble:
                return trouble
    if isinstance(value, list):
        for i, item in enumerate(value):
            trouble = _misfit(item, schema.get("items", True), f"item {i}")
            if trouble:
                return trouble
    return ""


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    return isinstance(value, _TYPES[kind]) and not (isinstance(value, bool) and kind != "boolean")


def _size(value: Any, keyword: str) -> float | None:
    if keyword in ("minimum", "maximum"):
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None
    kind = str if "Length" in keyword else list
    return len(value) if isinstance(value, kind) else None


class Format(RuleVerifier):
    """The response has one ``<think>`` block and after it one ``<answer>`` block, both with content, nothing around
    them. The prompt may have opened ``<think>`` already.

    think, answer: names of the tags. ``answer=`` (empty) asks for the thinking block and any text after it.
    """

    oracle = False

    def __init__(self, think: str = "think", answer: str = "answer"):
        for tag in (think, answer):
            if not re.fullmatch(r"[A-Za-z_][\w-]*|", tag):
                raise VerifierError(f"format: {tag!r} is not the name of a tag")
        self.think, self.answer = think, answer
        options = [f"think={think}"] * (think != "think") + [f"answer={answer}"] * (answer != "answer")
        self.name = "format" + (":" + ",".join(options) if options else "")

    def judge(self, attempt: Attempt) -> Verdict:
        text = attempt.response.strip()
        trouble = self._trouble(text[:MAX_CHARACTERS] if len(text) > MAX_CHARACTERS else text)
        found = statement(attempt.response)
        answer = squeeze(unwrap(found.text))[:400] if found else None
        return Verdict(float(not trouble), answer, rule="format", reason=trouble or "well formed")

    def _trouble(self, text: str) -> str:
        rest = text
        if self.think:
            opening, closing = f"<{self.think}>", f"</{self.think}>"
            if rest.count(opening) > 1 or rest.count(closing) != 1:
                return (
                    f"{closing} stands {rest.count(closing)} times and {opening} {rest.count(opening)} times"
                )
            before, _, rest = rest.partition(closing)
            if opening in rest or (opening in before and not before.startswith(opening)):
                return f"{opening} is not at the start"
            if not before.removeprefix(opening).strip():
                return "no thoughts"
        rest = rest.strip()
        if not self.answer:
            return "" if rest else "nothing after the thoughts"
        opening, closing = f"<{self.answer}>", f"</{self.answer}>"
        if rest.count(opening) != 1 or rest.count(closing) != 1:
            return f"{opening} stands {rest.count(opening)} times and {closing} {rest.count(closing)} times"
        if not (rest.startswith(opening) and rest.endswith(closing)):
            return "text outside the tags"
        return "" if rest[len(opening) : -len(closing)].strip() else "an empty answer"
