"""Names of metrics and parameters in MLflow, and the order in which they are shown."""

import re

HEADLINE = ("image_auroc", "pixel_auroc", "pro")
# Metrics shown first in a comparison of variants; fractions.
QUALITY = (
    *HEADLINE,
    *("aupimo", "image_ap", "image_f1_max", "pixel_ap", "pixel_f1_max"),
)
# Parts of metrics.json that are not single metrics.
GROUPS = ("pro_at", "by_defect", "by_size", "intervals", "bootstrap", "protocols")
# Mappings that are one value as a whole, as in realnet.config.params.merge.
WHOLE = ("sources", "arch_args", "opacity", "datasets")
SIGNS = {"<=": "up to", ">=": "from", "<": "under", ">": "over", "%": "percent"}


def metric_name(text: str) -> str:
    """``text`` in MLflow's alphabet: ``by_size/< 0.1 %/pro`` is ``by_size/under 0.1 percent/pro``.

    MLflow allows letters, digits, spaces and ``_-.:/``.
    """
    text = text.replace("–", "-")
    for sign, word in SIGNS.items():
        text = text.replace(sign, f" {word} ")
    text = re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)
    return "/".join(" ".join(part.split()) or "_" for part in text.split("/"))
