"""`report.html`: one static file that works offline, without JavaScript, on a phone, in light and in dark.

Everything that comes from a pool (questions, chains, names) is escaped; nothing in it can run or load
anything. Knows nothing of how the figures were computed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from reasoning.report.css import CSS
from reasoning.report.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST_TEXT = 6000
FIRST = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """wide, narrow: SVG bytes of the two layouts. alt: what one sees, for who cannot. caption: how to read
    it."""

    heading: str
    wide: bytes
    narrow: bytes
    alt: str
    caption: str


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A chain to read. rule: why it was chosen. facts: short remarks. correct: None where it is not known."""

    rule: str
    model: str
    question: str
    reference: str
    text: str
    correct: bool | None
    facts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page shows. comparisons, provenance: headings and rows of text."""

    title: str
    subtitle: str
    findings: Sequence[str]
    table: Table
    pictures: Sequence[Picture]
    comparisons: tuple[Sequence[str], Sequence[Sequence[str]]]
    break_even: tuple[Sequence[str], Sequence[Sequence[str]]]
    excerpts: Sequence[Excerpt]
    provenance: tuple[Sequence[str], Sequence[Sequence[str]]]
    verifiers: tuple[Sequence[str], Sequence[Sequence[str]]]
    methods: Sequence[str]


def render(page: Page) -> str:
    """The whole HTML file."""
    parts = [
        f"<h1>{escaped(page.title)}</h1>",
        f'<p class="soft">{escaped(page.subtitle)}</p>',
        "<h2>What it shows</h2>",
        _findings(page.findings),
        "<h2>Accuracy and what it costs</h2>",
        summary(page.table),
        *(figure(picture) for picture in page.pictures),
    ]
    if page.break_even[1]:
        parts += ["<h2>Break-even in numbers</h2>", plain_table(*page.break_even)]
    if page.comparisons[1]:
        parts += [
            "<h2>Paired comparisons</h2>",
            "<details><summary>All comparisons, with intervals and what they could have found</summary>",
            plain_table(*page.comparisons),
            "</details>",
        ]
    if page.excerpts:
        parts += [
            "<h2>Chains worth reading</h2>",
            '<p class="soft">Chosen by the rules stated above each, never by hand. What a model wrote is shown as '
            "it came.</p>",
            *(_excerpt(excerpt) for excerpt in page.excerpts),
        ]
    parts += [
        "<h2>Where the numbers come from</h2>",
        plain_table(*page.provenance),
        plain_table(*page.verifiers),
        bullets(page.methods, "soft"),
    ]
    return document(page.title, parts)


def document(title: str, parts: Sequence[str], refresh_seconds: int = 0) -> str:
    """An HTML file of ``parts``, each escaped already, under a policy that lets nothing in it run or load anything.
    refresh_seconds: it loads itself anew so often; 0 is never."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    again = f'<meta http-equiv="refresh" content="{refresh_seconds}">\n' if refresh_seconds else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def escaped(text: object) -> str:
    """Escaped for any place in the page; characters that cannot be seen or that reorder text become
    U+FFFD."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def _findings(lines: Sequence[str]) -> str:
    """The first few in sight, the rest one tap away."""
    more = f"<details><summary>{len(lines) - FIRST} more</summary>{bullets(lines[FIRST:], 'findings more')}</details>"
    return bullets(lines[:FIRST], "findings") + (more if len(lines) > FIRST else "")


def bullets(lines: Iterable[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{escaped(line)}</li>" for line in lines) + "</ul>"


def summary(table: Table) -> str:
    def kind(i: int) -> str:
        return ' class="oracle"' if i in table.oracle else ""

    head = "".join(f'<th scope="col"{kind(i)}>{escaped(name)}</th>' for i, name in enumerate(table.columns))
    body = []
    for row in table.rows:
        cells = [f'<th scope="row">{escaped(row[0])}</th>']
        cells += [f"<td{kind(i)}>{escaped(cell)}</td>" for i, cell in enumerate(row) if i]
        opening = '<tr class="first">' if row[0] else "<tr>"
        body.append(f"{opening}{''.join(cells)}</tr>")
    notes = f'<p class="soft">{" ".join(escaped(note) for note in table.notes)}</p>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Summary table"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>{notes}"
    )


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        return f'<td class="long">{escaped(text)}</td>' if len(text) > 32 else f"<td>{escaped(text)}</td>"

    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="text"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div><p></p>"
    )


def figure(picture: Picture) -> str:
    wide, narrow = (
        "data:image/svg+xml;base64," + base64.b64encode(image).decode()
        for image in (picture.wide, picture.narrow)
    )
    return (
        f"<h2>{escaped(picture.heading)}</h2><figure><picture>"
        f'<source media="(max-width: 640px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{escaped(picture.alt)}"></picture>'
        f"<figcaption>{escaped(picture.caption)}</figcaption></figure>"
    )


def _excerpt(excerpt: Excerpt) -> str:
    verdict: Mapping[bool | None, str] = {
        True: '<span class="right">right</span>',
        False: '<span class="wrong">wrong</span>',
        None: '<span class="soft">no verdict</span>',
    }
    text = excerpt.text
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}\n[... {len(text) - LONGEST_TEXT:,} more characters]"
    facts = "".join(f" · {escaped(fact)}" for fact in excerpt.facts)
    return (
        f"<article><h3>{escaped(excerpt.rule)}</h3>"
        f'<p class="soft">{escaped(excerpt.model)} · {verdict[excerpt.correct]}{facts}</p>'
        f"<p><b>Problem.</b> {escaped(excerpt.question)}</p><pre>{escaped(text)}</pre>"
        f'<p class="soft">Reference answer: {escaped(excerpt.reference)}</p></article>'
    )
