"""Stage `backbone`: the frozen feature extractor, from a package, a hub, a file, or trained."""

from typing import Any

from realnet.compute.runtime import start
from realnet.config.stage_params import BackboneParams
from realnet.models.features import build_network, load_into, read_weights_file, write_backbone
from realnet.models.weight_packages import package_of, read_weights
from realnet.provenance.record import Record
from realnet.stages.job import Job
from realnet.training.pretext import train_pretext


def run(job: Job[BackboneParams]) -> None:
    """Write ``backbone.safetensors`` and ``backbone.json``; ``history.csv`` if trained.

    UserError: an unknown architecture, weights that cannot be fetched or do not fit.
    """
    params = job.params.backbone
    runtime = start(job.params.compute)
    record = Record("backbone", job.params.model_dump(), {}, source=params.source)
    facts: dict[str, Any] = {}
    if params.source == "package":
        package = package_of(params)
        network = build_network(params)
        load_into(network, read_weights(package), package.name)
        facts = {"package": package.name, "licence": package.licence}
    elif params.source == "timm":
        network = build_network(params, pretrained=True)
    elif params.source == "file":
        state = read_weights_file(params)
        network = build_network(params)
        load_into(network, state, str(params.file))
    else:
        network, facts = train_pretext(params, runtime, job.out)
    write_backbone(job.out, network, params, source=params.source, **facts)
    record.write(job.out, runtime.name, **facts)
