"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ParamsOption = Annotated[
    str, typer.Option("--params", help="A parameter file, or JSON of this stage's sections.")
]
VariantOption = Annotated[str, typer.Option(help="Variant, when --params is a file.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write to.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the experiment matrix.")]
DatasetOption = Annotated[str, typer.Option(help="Name of the dataset.")]
CategoryOption = Annotated[str, typer.Option(help="Name of the category.")]
ManifestOption = Annotated[Path, typer.Option(help="manifest.csv of the stage data.")]
BackboneOption = Annotated[Path, typer.Option(help="Folder of the stage backbone.")]
DdpmOption = Annotated[Path, typer.Option(help="Folder of the stage ddpm, or of import-ddpm.")]
ClassifierOption = Annotated[
    Path | None, typer.Option(help="Folder of the stage classifier, to be guided by it.")
]
SdasOption = Annotated[
    Path | None, typer.Option(help="Folder of the stage sdas, where its images are used.")
]
