"""RealNet-Bench: a reproducibility benchmark of RealNet (Zhang, Xu, Zhou, CVPR 2024)."""

import os

__version__ = "0.2.0"

# Telemetry stays off whoever starts us. Set before mlflow is imported anywhere.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
