"""Inputs in which two evaluations differ, from their stage.json files."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from realnet.core.io import read_csv, read_json
from realnet.provenance.lineage import flatten, moved, records

KINDS = {
    "params": "parameters",
    "data": "data",
    "inputs": "other inputs",
    "code": "code (git commit)",
    "packages": "packages",
    "device": "device",
    "processes": "processes",
    "results": "intermediate results that differ although none of their recorded inputs does",
}
ABSENT = "(none)"


class Change(NamedTuple):
    """One input that differs between A and B; equal changes of several runs are equal tuples."""

    kind: str  # a key of KINDS
    name: str
    a: str
    b: str


def changes(a: Path, b: Path, folder_a: Path, folder_b: Path) -> list[Change]:
    """All inputs in which two evaluations below the results folders ``a`` and ``b`` differ.

    Parameters of every stage behind them; image manifests and external weights by digest; commit,
    packages, device and processes. In the order of KINDS.

    Intermediate results are consequences and not listed, except those that differ although the
    stage had the same parameters, inputs, code, packages and device; they come last.
    """
    chains = records(a, folder_a), records(b, folder_b)
    stages = [stage for stage in chains[0] if stage in chains[1]]
    found = [
        Change("params", f"stage {stage}", *("present" if stage in c else ABSENT for c in chains))
        for stage in dict.fromkeys([*chains[0], *chains[1]])
        if stage not in stages
    ]
    digests: dict[str, tuple[str, str]] = {}  # input -> its two digests
    for stage in stages:
        one, other = (c[stage] for c in chains)
        found += _between("params", flatten(one["params"]), flatten(other["params"]))
        found += _facts(stage, one, other)
        found += _files(one, other, (a, b), digests)
    found += _unexplained(chains, digests)
    order = list(KINDS)
    return sorted(dict.fromkeys(found), key=lambda c: (order.index(c.kind), c.name, c.a, c.b))


def same_test_images(a: Path, b: Path, folder_a: Path, folder_b: Path) -> bool:
    """Whether the manifests are identical, or list the same test images with the same masks in the
    same order."""
    manifests = []
    for root, folder in ((a, folder_a), (b, folder_b)):
        record = read_json(folder / "stage.json") if (folder / "stage.json").is_file() else {}
        manifests.append((root, record.get("inputs", {}).get("manifest", {})))
    digests = [given.get("sha256") for _, given in manifests]
    if None in digests:
        return False
    if digests[0] == digests[1]:
        return True
    rows = [_test_images(root, given["path"]) for root, given in manifests]
    return rows[0] is not None and rows[0] == rows[1]


def _test_images(root: Path, recorded: str) -> list[tuple[str, ...]] | None:
    parts = PurePath(recorded).parts
    paths = [root.joinpath(*parts[k:]) for k in range(len(parts)) if parts[k] != "/"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    keys = ("defect", "sha256", "mask_sha256")
    return [
        tuple(row.get(key, "") for key in keys) for row in read_csv(path) if row["split"] == "test"
    ]


def _between(kind: str, one: Mapping[str, str], other: Mapping[str, str]) -> list[Change]:
    return [
        Change(kind, name, one.get(name, ABSENT), other.get(name, ABSENT))
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _facts(stage: str, one: dict[str, Any], other: dict[str, Any]) -> list[Change]:
    """Changes of one stage in commit, packages, device, processes."""
    packages = [{"python": r.get("python"), **r.get("versions", {})} for r in (one, other)]
    found = _between("packages", *(dict(p) for p in packages))
    for kind, key in (("code", "git_commit"), ("device", "device"), ("processes", "processes")):
        found += _between(
            kind, *({stage: _short(key, r[key])} if key in r else {} for r in (one, other))
        )
    return found


def _short(key: str, value: Any) -> str:
    """A commit as its first 10 digits, with ``+dirty`` for uncommitted changes."""
    if key != "git_commit" or not isinstance(value, str):
        return str(value)
    commit, plus, dirty = value.partition("+")
    return commit[:10] + plus + dirty


def _files(
    one: dict[str, Any],
    other: dict[str, Any],
    roots: tuple[Path, Path],
    digests: dict[str, tuple[str, str]],
) -> list[Change]:
    """Images and external files by their digests; results of stages go to ``digests``."""
    found = []
    for name in dict.fromkeys([*one["inputs"], *other["inputs"]]):
        given = [record["inputs"].get(name) for record in (one, other)]
        is_manifest, _, category = name.partition("/")
        if None not in given and is_manifest != "manifest":
            places = zip(roots, given, strict=True)
            if all(moved(root, source["path"]) is not None for root, source in places):
                digests[name] = (given[0]["sha256"], given[1]["sha256"])
                continue
        hashes = [source["sha256"][:12] if source else ABSENT for source in given]
        if hashes[0] != hashes[1]:
            where = f"{one.get('dataset')}/{category or one.get('category')}"
            data = ("data", f"manifest of {where}") if is_manifest == "manifest" else None
            found.append(Change(*(data or ("inputs", name)), *hashes))
    return found


def _unexplained(
    chains: tuple[dict[str, dict[str, Any]], ...], digests: Mapping[str, tuple[str, str]]
) -> list[Change]:
    """Results that differ although their records do not: not deterministic, or replaced."""
    compared = ("params", "git_commit", "versions", "python", "device", "processes")
    found = []
    for name, (a, b) in digests.items():
        stage = name
        if name == "model":  # of either method
            stage = next((s for s in ("realnet", "patchcore") if s in chains[0]), name)
        one, other = (c.get(stage) for c in chains)
        if a == b or one is None or other is None:
            continue
        inputs = [{k: s["sha256"] for k, s in r["inputs"].items()} for r in (one, other)]
        if inputs[0] == inputs[1] and all(one.get(k) == other.get(k) for k in compared):
            found.append(Change("results", stage, a[:12], b[:12]))
    return found
