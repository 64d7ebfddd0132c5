"""The style sheet of the HTML report."""

STYLE = """\
:root {
  --paper: #ffffff; --ink: #1a1a1a; --muted: #595959; --rule: #d9d9d9; --band: #f5f7f9; --accent: #0072b2;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #ececec; --muted: #a8acb0; --rule: #33383d; --band: #1c2126; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
header p, section > p, section > ul { max-width: 46rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 3rem 0 0.75rem; padding-top: 0.75rem; }
h2 { border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; line-height: 1.35; margin: 1.75rem 0 0.4rem; }
p { margin: 0.6rem 0; }
ul { margin: 0.6rem 0; padding-left: 1.2rem; }
li { margin: 0.25rem 0; }
a { color: var(--accent); }
nav { margin: 1.5rem 0; padding: 0.75rem 1rem; background: var(--band); border-radius: 6px; }
nav h2 { font-size: 1rem; margin: 0; padding: 0; border: 0; }
nav ol { margin: 0.4rem 0 0; padding-left: 1.4rem; columns: 2 18rem; }
.scroll {
  overflow-x: auto; max-width: 100%;
  background: linear-gradient(to left, var(--paper) 30%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--rule), transparent) right / 0.75rem 100% no-repeat scroll;
}
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.875rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; border-bottom: 1px solid var(--ink); }
tbody th { font-weight: 500; min-width: 7.5rem; position: sticky; left: 0; background: var(--paper); }
tbody th.number { min-width: 0; }
td { max-width: 24rem; }
.number { text-align: right; }
td.number, th.number { white-space: nowrap; }
thead th.number { white-space: normal; }
.value { white-space: nowrap; }
.unknown { color: var(--muted); font-style: italic; }
tr.total th, tr.total td { font-weight: 600; border-top: 1px solid var(--ink); }
.note { color: var(--muted); font-size: 0.875rem; max-width: 46rem; margin: 0.35rem 0; }
.cite { font-size: 0.8em; text-decoration: none; white-space: nowrap; border-bottom: 1px dotted currentColor; }
figure { margin: 1.5rem 0; }
figure svg { display: block; width: 100%; min-width: 46rem; height: auto; }
figcaption { color: var(--muted); font-size: 0.875rem; margin-top: 0.4rem; }
.dark { display: none; }
@media (prefers-color-scheme: dark) { .light { display: none; } .dark { display: block; } }
footer { margin-top: 3rem; color: var(--muted); font-size: 0.875rem; }
tr:target, tr:target th { background: var(--band); }
@media print {
  :root { --paper: #ffffff; --ink: #000000; --muted: #444444; --rule: #bbbbbb; --band: #ffffff; --accent: #000000; }
  @page { size: A4 landscape; margin: 14mm; }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  .scroll { overflow: visible; background: none; }
  tbody th { position: static; min-width: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.15rem 0.4rem; }
  td.number, th.number, .value { white-space: normal; }
  figure svg { min-width: 0; max-width: 24cm; }
  .light { display: block; } .dark { display: none; }
  h2, h3 { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  thead { display: table-header-group; }
}
"""
