"""The diffusion stages, run on given files."""

from realnet.stages import classifier, ddpm, sdas, sia, sia_shard
from realnet.stages.job import Job


def joint_job(params, manifests, dataset, categories, seed, out):
    """Of a model of several categories, each with its manifest."""
    pairs = zip(categories, manifests, strict=True)
    inputs = {f"manifest/{name}": path for name, path in pairs}
    return Job(params, out, dataset, tuple(categories), seed, inputs=inputs)


def train_ddpm(*given):
    ddpm.run(joint_job(*given))


def train_classifier(*given):
    classifier.run(joint_job(*given))


def sampling_job(params, model, manifest, dataset, category, seed, out, guide=None):
    """Of images of one category; ``guide``: folder of the stage `classifier`."""
    inputs = {"ddpm": model, "manifest": manifest} | ({"classifier": guide} if guide else {})
    return Job(params, out, dataset, (category,), seed, inputs=inputs)


def sample_sdas(*given):
    sdas.run(sampling_job(*given))


def make_sia(*given):
    sia.run(sampling_job(*given))


def sample_shard(*given, shard=0):
    sia_shard.run(sampling_job(*given), shard)
