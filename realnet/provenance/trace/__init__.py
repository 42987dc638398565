"""`realnet trace`: the provenance of a number in a table, and checks of it.

    selection.py  which evaluations a table or a result is made of
    chain.py      the stages behind an evaluation, as data and as text
    check.py      recorded digests, parameters and code against the present ones
    command.py    the command

The records are the ``stage.json`` files that every stage writes (`realnet/provenance/record.py`).
"""

from realnet.provenance.trace.chain import chain, overview, text
from realnet.provenance.trace.check import Finding, check, verdict
from realnet.provenance.trace.selection import Selection, select

__all__ = ["Finding", "Selection", "chain", "check", "overview", "select", "text", "verdict"]
