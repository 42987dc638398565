"""ImageNet weights that Python packages contain (`backbone.source: package`).

Which packages are known, and how their parameter names become those of timm, is data:
``weight_packages.yaml``. Nothing of a package is imported or executed; its file is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from realnet.config.sections import Backbone as BackboneParams
from realnet.core.errors import UserError
from realnet.core.io import sha256

if TYPE_CHECKING:  # the workflow checks packages without torch
    import torch

TABLE = Path(__file__).with_name("weight_packages.yaml")


@dataclass(frozen=True)
class WeightPackage:
    """An entry of ``weight_packages.yaml``; mean and std of the input in [0, 1], per channel."""

    name: str
    architecture: str
    file: str
    sha256: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: Mapping[str, Mapping[str, str]]
    stages: tuple[int, ...]

    @property
    def path(self) -> Path:
        """The installed file. UserError: the package is not installed, or has no such file."""
        try:
            path = Path(str(metadata.distribution(self.name).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            raise UserError(
                f"backbone.package: {self.name} is not installed; `pip install {self.name}`, or"
                " build the environment from requirements.lock"
            ) from None
        if not path.is_file():
            raise UserError(
                f"backbone.package: {path}: no such file; reinstall the package {self.name}"
            )
        return path

    def timm_name(self, name: str) -> str:
        """The name in timm of a parameter or buffer of the file. KeyError: unknown name."""
        module, _, rest = name.partition(".")
        if module != "_blocks":
            return f"{self.names['outside'][module]}.{rest}"
        number, module, rest = rest.split(".", 2)
        stage, block = 0, int(number)
        while block >= self.stages[stage]:
            block -= self.stages[stage]
            stage += 1
        names = self.names["other_stages" if stage else "first_stage"]
        return f"blocks.{stage}.{block}.{names[module]}.{rest}"


@cache
def packages() -> dict[str, WeightPackage]:
    """Name on PyPI -> entry of the table."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {
        name: WeightPackage(
            name=name,
            architecture=entry["architecture"],
            file=entry["file"],
            sha256=entry["sha256"],
            licence=entry["licence"],
            mean=tuple(entry["mean"]),
            std=tuple(entry["std"]),
            names=table["names"][entry["names"]],
            stages=tuple(entry["stages"]),
        )
        for name, entry in table["packages"].items()
    }


def package_of(params: BackboneParams) -> WeightPackage:
    """The package that the parameters name; checked without reading its weights.

    Raises:
        UserError: unknown, not installed, or of another architecture.
    """
    known = packages()
    if params.package not in known:
        raise UserError(
            f"backbone.package: {params.package or 'not set'}; known packages:"
            f" {', '.join(known)} (others: backbone.source: file)"
        )
    found = known[params.package]
    if params.arch != found.architecture:
        raise UserError(
            f"backbone.arch: {params.arch}, but {found.name} has weights of {found.architecture}"
        )
    _ = found.path
    return found


def read_weights(package: WeightPackage) -> "dict[str, torch.Tensor]":
    """The state dict with timm's names. UserError: not the published file."""
    import torch

    digest = sha256(package.path)
    if digest != package.sha256:
        raise UserError(
            f"{package.path}: sha256 is {digest}, expected {package.sha256}; reinstall the package"
            f" {package.name}"
        )
    state = torch.load(package.path, map_location="cpu", weights_only=True)
    return {package.timm_name(name): value for name, value in state.items()}
