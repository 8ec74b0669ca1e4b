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

from reasoning.report.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
LONGEST_TEXT = 6000
FIRST = 4

CSS = """
:root { color-scheme: light dark; --ink: #1d2127; --soft: #5b6470; --page: #ffffff; --card: #f5f6f8; --line:
#d9dde3;
  --accent: #0b62a8; --right: #1a7f37; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaee; --soft: #a3acb8; --page: #14171b; --card:
#1e2329;
  --line: #373e47; --accent: #7cb8f2; --right: #58c373; --wrong: #f28b82; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .3rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p, li { max-width: 48rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .92rem; }
.findings { padding-left: 1.2rem; }
.findings li { margin: .4rem 0; }
.findings:not(.more) li:first-child { font-size: 1.12rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--card); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th:first-child { background: var(--card); }
tr.first td, tr.first th { border-top: 2px solid var(--soft); }
tbody th { font-weight: 600; }
.oracle { color: var(--soft); font-style: italic; }
.text td, .text th { text-align: left; white-space: normal; }
figure { margin: 1rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; padding:
.4rem;
  border: 1px solid var(--line); }
figcaption { margin-top: .5rem; max-width: 48rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }
article { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: 1rem 0; }
article h3 { margin: 0 0 .4rem; font-size: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); border-radius: 6px;
  padding: .6rem .8rem; margin: .4rem 0; font: .88rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace;
  }
.right { color: var(--right); font-weight: 600; } .wrong { color: var(--wrong); font-weight: 600; }
@media (max-width: 640px) { body { font-size: 15px; } main { padding: 1rem .8rem 3rem; } h1 { font-size:
1.35rem; } }
"""


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
        f"<h1>{_text(page.title)}</h1>",
        f'<p class="soft">{_text(page.subtitle)}</p>',
        "<h2>What it shows</h2>",
        _findings(page.findings),
        "<h2>Accuracy and what it costs</h2>",
        _summary(page.table),
        *(_picture(picture) for picture in page.pictures),
    ]
    if page.break_even[1]:
        parts += ["<h2>Break-even in numbers</h2>", _plain_table(*page.break_even)]
    if page.comparisons[1]:
        parts += [
            "<h2>Paired comparisons</h2>",
            "<details><summary>All comparisons, with intervals and what they could have found</summary>",
            _plain_table(*page.comparisons),
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
        _plain_table(*page.provenance),
        _plain_table(*page.verifiers),
        _list(page.methods, "soft"),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_text(page.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: object) -> str:
    """Escaped for any place in the page; characters that cannot be seen or that reorder text become
    U+FFFD."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def _findings(lines: Sequence[str]) -> str:
    """The first few in sight, the rest one tap away."""
    more = f"<details><summary>{len(lines) - FIRST} more</summary>{_list(lines[FIRST:], 'findings more')}</details>"
    return _list(lines[:FIRST], "findings") + (more if len(lines) > FIRST else "")


def _list(lines: Iterable[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _summary(table: Table) -> str:
    def kind(i: int) -> str:
        return ' class="oracle"' if i in table.oracle else ""

    head = "".join(f'<th scope="col"{kind(i)}>{_text(name)}</th>' for i, name in enumerate(table.columns))
    body = []
    for row in table.rows:
        cells = [f'<th scope="row">{_text(row[0])}</th>']
        cells += [f"<td{kind(i)}>{_text(cell)}</td>" for i, cell in enumerate(row) if i]
        opening = '<tr class="first">' if row[0] else "<tr>"
        body.append(f"{opening}{''.join(cells)}</tr>")
    notes = f'<p class="soft">{" ".join(_text(note) for note in table.notes)}</p>'
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Summary table"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>{notes}"
    )


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table class="text"><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div><p></p>"
    )


def _picture(picture: Picture) -> str:
    wide, narrow = (
        "data:image/svg+xml;base64," + base64.b64encode(image).decode()
        for image in (picture.wide, picture.narrow)
    )
    return (
        f"<h2>{_text(picture.heading)}</h2><figure><picture>"
        f'<source media="(max-width: 640px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{_text(picture.alt)}"></picture>'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
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
    facts = "".join(f" · {_text(fact)}" for fact in excerpt.facts)
    return (
        f"<article><h3>{_text(excerpt.rule)}</h3>"
        f'<p class="soft">{_text(excerpt.model)} · {verdict[excerpt.correct]}{facts}</p>'
        f"<p><b>Problem.</b> {_text(excerpt.question)}</p><pre>{_text(text)}</pre>"
        f'<p class="soft">Reference answer: {_text(excerpt.reference)}</p></article>'
    )
