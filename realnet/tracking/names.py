"""Names in MLflow: which metrics and parameters there are, and in which order they are shown."""

import re

HEADLINE = ("image_auroc", "pixel_auroc", "pro")
# What a comparison of variants starts with; fractions.
QUALITY = (
    *HEADLINE,
    *("aupimo", "image_ap", "image_f1_max", "pixel_ap", "pixel_f1_max"),
)
# Parts of metrics.json that are not plain metrics.
GROUPS = ("pro_at", "by_defect", "by_size", "intervals", "bootstrap", "protocols")
# Parameters whose entries are one value together, as in realnet.config.params.merge.
WHOLE = ("sources", "arch_args", "opacity", "datasets")
SIGNS = {"<=": "up to", ">=": "from", "<": "under", ">": "over", "%": "percent"}


def metric_name(text: str) -> str:
    """``text`` in MLflow's alphabet: ``by_size/< 0.1 %/pro`` is ``by_size/under 0.1 percent/pro``.

    Its names have letters, digits, blanks and ``_-.:/``.
    """
    text = text.replace("–", "-")
    for sign, word in SIGNS.items():
        text = text.replace(sign, f" {word} ")
    text = re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)
    return "/".join(" ".join(part.split()) or "_" for part in text.split("/"))
