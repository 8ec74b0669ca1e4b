r"""Text to tokens. One notation for LaTeX (``\frac12``), Unicode (``√2``, ``x²``) and plain text (``sqrt(2)``).

Tokens are (kind, text): "num" (grouping removed), "word", "cmd" (``\name``), "text" (the inside of ``\text{}``),
"env" or "det" (a matrix or determinant environment with its body), or the symbol itself. Unknown characters raise
Unreadable.
"""

from __future__ import annotations

import re

from verifiers.normalise import plain_latex, plain_unicode

MAX_CHARACTERS = 3_000
MAX_TOKENS = 1_200
MAX_DIGITS = 2_000


class Unreadable(ValueError):
    """Not a mathematical expression (or beyond the caps); the message says why."""


_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n", strict=True))
_SYMBOLS = {
    "√": r"\sqrt ",
    "∛": r"\cbrt ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "′": "'",
    "″": "''",
    "…": r"\ldots ",
    "⋯": r"\ldots ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "∣": "|",
    "∧": r"\wedge ",
    "∨": r"\vee ",
    "→": r"\to ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
}
GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
_SYMBOLS |= {c: f"\\{name} " for c, name in zip("αβγδεζηθικλμνξοπρστυφχψω", GREEK, strict=True)}
_SYMBOLS |= {
    "Δ": r"\Delta ",
    "Γ": r"\Gamma ",
    "Θ": r"\Theta ",
    "Σ": r"\Sigma ",
    "Φ": r"\Phi ",
    "Ω": r"\Omega ",
}
_TABLE = str.maketrans(_SYMBOLS)
_SUPER = re.compile("[" + "".join(_SUPERSCRIPTS) + "]+")
_SUB = re.compile("[" + "".join(_SUBSCRIPTS) + "]+")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}])")
_TOO_DEEP = re.compile(r"[({\[]{60}")
_ENVIRONMENT = re.compile(
    r"\\begin\{([bpBv]?matrix|smallmatrix|array)\}(?:\s*\{[clr| ]*\})?(.*?)\\end\{\1\}", re.DOTALL
)
_OTHER_ENVIRONMENT = re.compile(
    r"\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|split|cases)\*?\}"
)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<num>\d{1,3}(?:\{,\}\d{3})+(?:\.\d+)?(?![\d{])
        |[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?!,?\d)
        |[1-9]\d{0,2}(?:[ ]\d{3})+(?:\.\d+)?(?![ ]?\d)
        |\d+\.?\d*|\.\d+)
    | \\(?:text|textnormal|textrm|textbf|textit|texttt|mbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|hbox|bf|rm)
        \s*\{(?P<text>[^{}]*)\}
    | (?P<cmd>\\(?:[A-Za-z]+|[|{}\\]))
    | (?P<word>[A-Za-z]+)
    | (?P<dots>\.\.\.+)
    | (?P<rel><=|>=|!=|==|<>|=<|=>|->|\*\*|\+/?-)
    | (?P<sym>[-+*/^_=<>()\[\]{},;:|!%'?&$€£¥₹@#"])
    )""",
    re.VERBOSE | re.ASCII,
)
_HALF_DAY = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?|(?<=:\d\d)\s*([ap])\.+\s*$", re.IGNORECASE)
_ORDINAL = re.compile(
    r"(?<=\d)\s*(?:\^\s*)?\{?\s*(?:\\(?:text|mathrm|textrm|rm)\s*\{)?(?:st|nd|rd|th)\b\}{0,2}"
)
_CODES = {"USD": "$", "US$": "$", "EUR": "€", "GBP": "£"}
_CURRENCY_CODE = re.compile(r"\b(USD|EUR|GBP|US\$)\s*(?=[\d$€£])")
_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_GLUED = re.compile(r"(?<=[\d)}])(or|and)(?=[A-Z(\d\\])")
_GROUPED_IN_BRACKETS = re.compile(r"[(\[{][^()\[\]{}]*,\S[^()\[\]{}]*[)\]}]")


_OVERLINED = re.compile("(?:\\d\u0305)+|(?:\\d\u0304)+")
_DOTTED = re.compile(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?")
_BARE_REPEAT = re.compile(r"(?<!\d)\.(?=\\(?:overline|bar|dot)\b)")
_BRACED_MARK = re.compile(r"(?<=\d)\{\s*([.:])\s*\}(?=\d)")
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac\s*\{\s*\\(?:text|mathrm)\s*\{([a-zA-Z ]+)\}\s*\}\s*\{\s*\\(?:text|mathrm)\s*\{([a-zA-Z ]+)\}\s*\}"
)
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_WHOLE_OVER = re.compile(r"^([^{}]*)\\over(?![A-Za-z])([^{}]*)$")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}")
_TRANSPOSED = re.compile(r"\^\s*(?:\\(?:top|intercal)(?![A-Za-z])|\{\s*\\(?:top|intercal)\s*\})")
_PRIMES = re.compile(r"\^\s*\{?((?:\s*\\prime(?![A-Za-z])){1,3})\s*\}?")
_BASE_IN_WORDS = re.compile(
    r"(?<![A-Za-z0-9.])\(?([0-9]{1,60})\)?\s*_?\{?\s*(?:\\(?:text|mathrm|textrm)\s*\{)?\s*[(,]?\s*(?:in\s+)?base[\s}-]*"
    r"(\d{1,2}|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\s*\)?\s*\}{0,2}"
)
_BRACKETED_BASE = re.compile(r"_\{\s*\(\s*(\d{1,2})\s*\)\s*\}")
_GROUPED_ARGUMENT = re.compile(r"(?:(?<=[a-z])|(?<=\}))\{\s*([1-9]\d{0,2}(?:,\d{3})+)\s*\}")
_MIXED_IN_BRACES = re.compile(r"(?<=\d)\s*\{\s*(\\frac\s*\{\d{1,30}\}\s*\{\d{1,30}\})\s*\}")
_DERIVATIVE = re.compile(r"(?<![A-Za-z\\])d([A-Za-z])\s*/\s*d([a-z])(?![A-Za-z])")
_SMALL_O = re.compile(r"(?<=\d)\s*\^\s*\{?\s*(?:\\(?:text|mathrm)\s*\{\s*)?o(?![A-Za-z])\s*\}{0,2}")
_RATE = re.compile(r"([$€£]\s?\d[\d,.]*)\s*/\s*(?=[a-z]{3,})")
_RUPEES = re.compile(r"\bRs\b\.?\s*(?=\d)")
_MEMBER = re.compile(r"^\s*([A-Za-z])\s+in\s+(?=[\[({\\])")


def clean(text: str) -> str:
    """``text`` in one notation: Unicode symbols as LaTeX, spacing and sizing commands gone."""
    if not text.isascii():
        text = text.replace("³√", "∛").replace("¢", " cents ")
        text = _OVERLINED.sub(lambda m: r"\overline{" + m.group()[::2] + "}", text)
        text = _SUPER.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text)
        text = _SUB.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
        text = plain_unicode(text.replace("\ufe0f", "").replace("\u20e3", "")).translate(_TABLE)
    if "{" in text:
        text = _BRACED_MARK.sub(r"\1", text)
        text = re.sub(r"(?<=\d)\s*\{\s*,\s*\}\s*(?=\d)", "{,}", text)
    if text.endswith(("m", ".", "M", "}")):
        text = _HALF_DAY.sub(r" \1\2m", text)
    if "\\" in text:
        if "\\over" in text:
            text = _OVER.sub(r"\\frac{\1}{\2}", _WHOLE_OVER.sub(r"\\frac{\1}{\2}", text))
        if "\\choose" in text:
            text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
        if "\\colon" in text:
            text = re.sub(r"\\colon(?![A-Za-z])", ":", text)
        if "\\prime" in text:
            text = _PRIMES.sub(lambda m: "'" * m.group(1).count("p"), text)
        if "\\top" in text or "\\intercal" in text:
            text = _TRANSPOSED.sub("^T", text)
        if "\\dot" in text:
            text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
        text = _BARE_REPEAT.sub("0.", text)
        if "frac" in text:
            text = _UNIT_FRACTION.sub(r"\\text{\1/\2}", text)
        text = re.sub(r",\s*\\!\s*", "{,}", text)
        if "\\begin" not in text:
            text = _DOUBLED.sub(r"\\", text)
        text = text.replace(r"\quad", ";").replace(r"\qquad", ";") if "quad" in text else text
        text = re.sub(r"(?<=\d)\\,(?=\d{3})", "{,}", text)
        text = plain_latex(text)
        if "{\\frac" in text or "{ \\frac" in text:
            text = _MIXED_IN_BRACES.sub(r"\1", text)
    if "," in text and "{" in text:
        text = _GROUPED_ARGUMENT.sub(lambda m: "{" + m.group(1).replace(",", "") + "}", text)
    if "base" in text:
        text = _BASE_IN_WORDS.sub(r"\1_{\2}", text)
    if "_{" in text:
        text = _BRACKETED_BASE.sub(r"_{\1}", text)
    if "/" in text:
        text = _RATE.sub(r"\1 per ", _DERIVATIVE.sub(r"\\frac{d \1}{d \2}", text))
    if "^" in text and "o" in text:
        text = _SMALL_O.sub(r"^\\circ ", text)
    if "np." in text or "math." in text:
        text = re.sub(r"\b(?:np|math)\.(?=[a-z])", "", text)
    if "Rs" in text:
        text = _RUPEES.sub("₹", text)
    if "per cent" in text:
        text = text.replace("per cent", "percent")
    if " in " in text:
        text = _MEMBER.sub(r"\1 \\in ", text)
    return text.replace("~", " ")


def tokens(text: str) -> list[tuple[str, str]]:
    """Raises Unreadable."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"longer than {MAX_CHARACTERS} characters")
    text = clean(text)
    text = _TIMES.sub("*", text)
    text = _CURRENCY_CODE.sub(lambda m: _CODES[m.group(1)], text)
    text = _ORDINAL.sub("", text)
    text = _GLUED.sub(r" \1 ", text)
    if _TOO_DEEP.search(text):
        raise Unreadable("nested too deeply")
    if _GROUPED_IN_BRACKETS.search(text):
        text = _separate(text)
    out: list[tuple[str, str]] = []
    at = 0
    for env in _ENVIRONMENT.finditer(text):
        scan(text[at : env.start()], out)
        out.append(("det" if env.group(1) == "vmatrix" else "env", env.group(2)))
        at = env.end()
    scan(text[at:], out)
    if len(out) > MAX_TOKENS:
        raise Unreadable(f"more than {MAX_TOKENS} symbols")
    return out


def _separate(text: str) -> str:
    """Inside brackets a bare comma separates: "(1,234)" is a pair. Where the bracket also holds ", " the comma
    without a space groups digits, as in "(1,234, 5)"."""

    def split(match: re.Match[str]) -> str:
        inside = match.group()
        return inside if ", " in inside or "{,}" in inside else inside.replace(",", ", ")

    return re.sub(r"(?<![_^])[(\[{][^()\[\]{}]*,[^()\[\]{}]*[)\]}]", split, text)


def scan(text: str, out: list[tuple[str, str]]) -> None:
    """Appends the tokens of ``text`` to ``out``."""
    if "\\begin" in text and (aligned := _OTHER_ENVIRONMENT.sub(" ", text)) != text:
        text = aligned.replace("&", " ")
    text = text.rstrip()
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable(f"{text[at : at + 1]!r} is not read")
        at = match.end()
        kind = match.lastgroup or ""
        value = match.group(kind)
        if kind == "num":
            value = value.replace("{,}", "").replace(",", "").replace(" ", "")
            if len(value) > MAX_DIGITS:
                raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
            out.append(("num", value))
        elif kind == "cmd":
            out.append(("cmd", value[1:]))
        elif value in ("+-", "+/-"):
            out.append(("cmd", "pm"))
        elif kind in ("sym", "rel", "dots"):
            out.append((value if kind != "dots" else "...", value))
        else:
            out.append((kind, value))
