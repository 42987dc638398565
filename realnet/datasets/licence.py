"""The terms of images that are made from a dataset's images."""

from realnet.datasets.categories import KNOWN_CATEGORIES
from realnet.datasets.fetch.archives import sources

INHERITED = "Generated images have the licence of the images that they were made from."


def terms(dataset: str) -> dict[str, str | None]:
    """``name``, ``use``, ``url`` and ``citation`` of a dataset's licence, and the ``rule``.

    Source of the rule: the authors, asked about their published images. A dataset that is not
    among the published ones has the licence that its owner gives it; ``name`` is then None.
    """
    known = sources().get(dataset)
    found: tuple[str | None, ...]
    if known is not None:
        found = (known.licence.name, known.licence.use, known.licence.url, known.citation)
    elif dataset in KNOWN_CATEGORIES:  # the demo dataset
        found = ("MIT", "any; drawn by this project's code", None, None)
    else:
        found = (None, "as the owner of the dataset allows it", None, None)
    return dict(zip(("name", "use", "url", "citation"), found, strict=True)) | {"rule": INHERITED}
