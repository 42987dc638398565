"""The figures of a report: one style, vector and PNG, described in ``figures/index.json``.

A module per figure: functions of plain data that return a matplotlib figure, and ``make``, which
reads the data from the result files. Figures are per data set, never per evaluation.
"""

from realnet.reporting.figures.gallery import make_figures, write_figures

__all__ = ["make_figures", "write_figures"]
