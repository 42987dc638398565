"""``report.html``: one page with the tables, verdicts and figures, and what is behind each number.

The page needs nothing but itself: styles, script, figures and data are inside, and its content
security policy forbids the rest. The same result files always give the same bytes.

    page.py      puts the parts together (``template.html.j2``, ``style.css``, ``script.js``)
    view.py      tables as the page shows them
    judged.py    verdicts
    trace.py     the records (``stage.json``) behind each evaluation
    gaps.py      what of the matrix is missing, and why
    facts.py     what was run, on what, and what it cost
    pictures.py  figures, from ``figures/index.json``
"""

from realnet.report.page.page import prepare, render

__all__ = ["prepare", "render"]
