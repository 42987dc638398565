"""``report.html``: one page with tables, verdicts, figures and the provenance of each number.

The page is self-contained: styles, script, figures and data are inside, and its content security
policy forbids loading anything else. The same result files always give the same bytes.

    page.py       renders the page (``template.html.j2``, ``style.css``, ``script.js``)
    view.py       tables
    judged.py     verdicts
    page_data.py  the records (``stage.json``) behind each run, as JSON for the script
    facts.py      header of the page (data, variants, device, ...) and cost by stage
    pictures.py   figures, from ``figures/index.json``
"""

from realnet.report.page.page import prepare, render

__all__ = ["prepare", "render"]
