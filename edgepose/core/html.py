"""Build the HTML pages and tables of reports."""

from __future__ import annotations

from collections.abc import Sequence

from .pictures import BACKEND, PYTORCH

STYLE = f"""
:root {{ color-scheme: light dark; --line: #8884; --pass: #16803c; --fail: #c62828; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }}
.scroll {{ overflow-x: auto; }} .pass {{ color: var(--pass); font-weight: 600; }}
.fail {{ color: var(--fail); font-weight: 600; }}
.crops {{ display: flex; flex-wrap: wrap; gap: 1.2rem; }} figure {{ margin: 0; }}
img {{ display: block; border-radius: 6px; max-width: 100%; height: auto; }}
figcaption {{ font-size: .85rem; padding-top: .3rem; font-variant-numeric: tabular-nums; }}
.key {{ display: inline-block; width: 1.6em; vertical-align: middle; margin: 0 .35em 0 1em; border-radius: 3px; }}
.pytorch {{ height: 6px; background: rgb{PYTORCH}; }} .backend {{ height: 2px; background: rgb{BACKEND}; }}
"""


def html_page(title: str, body: Sequence[str], more_style: str = "") -> str:
    """Return a self-contained HTML page; ``title``, ``body`` and the CSS ``more_style`` are inserted unescaped."""
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}{more_style}</style></head>\n<body>",
            *body,
            "</body>\n</html>\n",
        )
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; its cells are inserted unescaped."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{header}</tr>\n{body}</table></div>'
