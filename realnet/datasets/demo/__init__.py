"""The embedded demo set: three procedural categories, rendered as an inspection camera sees them.

Nothing here knows how training anomalies are made (see :mod:`realnet.synthesis`): the defects are
modelled as what happened to the object (a gouge, a missing yarn, a part in the wrong place) and
rendered with it. No mask or texture comes from a noise function thresholded over the image.
"""

from realnet.datasets.demo.render import Sample, defect_types, render

__all__ = ["Sample", "defect_types", "render"]
