"""The style sheet of `report.html`: light and dark by the reader's system, and a phone's width."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1d2127; --soft: #5b6470; --page: #ffffff; --card: #f5f6f8; --line: #d9dde3;
  --accent: #0b62a8; --right: #1a7f37; --wrong: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e7eaee; --soft: #a3acb8; --page: #14171b; --card: #1e2329; --line: #373e47;
    --accent: #7cb8f2; --right: #58c373; --wrong: #f28b82;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .3rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
p, li { max-width: 48rem; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .92rem; }
.findings { padding-left: 1.2rem; }
.findings li { margin: .4rem 0; }
.findings:not(.more) li:first-child { font-size: 1.12rem; }

.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--card); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th:first-child { background: var(--card); }
tbody th { font-weight: 600; }
tr.first td, tr.first th { border-top: 2px solid var(--soft); }
.oracle { color: var(--soft); font-style: italic; }
.text td, .text th { text-align: left; }
.text td.long { white-space: normal; min-width: 15rem; }

figure { margin: 1rem 0 2rem; }
figure img {
  display: block; max-width: 100%; height: auto; padding: .4rem;
  background: #fff; border: 1px solid var(--line); border-radius: 8px;
}
figcaption { margin-top: .5rem; max-width: 48rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }

article { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; margin: 1rem 0; }
article h3 { margin: 0 0 .4rem; font-size: 1rem; }
pre {
  white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem .8rem; margin: .4rem 0;
  background: var(--card); border-radius: 6px;
  font: .88rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace;
}
.right { color: var(--right); font-weight: 600; }
.wrong { color: var(--wrong); font-weight: 600; }

@media (max-width: 640px) {
  body { font-size: 15px; }
  main { padding: 1rem .8rem 3rem; }
  h1 { font-size: 1.35rem; }
  tbody th:first-child { white-space: normal; min-width: 5rem; max-width: 6rem; overflow-wrap: anywhere; }
}
"""
