"""The built-in demo dataset: three procedural categories, rendered like inspection images.

It shares nothing with the synthetic training anomalies (:mod:`realnet.synthesis`): defects are
modelled as damage of the object (a gouge, a missing yarn, a misplaced part) and rendered with it.
No mask or texture is a thresholded noise image.
"""

from realnet.datasets.demo.render import Sample, defect_types, defects, render

__all__ = ["Sample", "defect_types", "defects", "render"]
