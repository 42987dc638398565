"""Runs single stages in tests: each function builds the job and returns nothing."""

from realnet.stages import afs, backbone, patchcore, realnet
from realnet.stages.job import Job


def realnet_job(params, manifest, backbone, afs, sdas, dataset, category, seed, out):
    inputs = {"manifest": manifest, "backbone": backbone, "afs": afs, "sdas": sdas}
    return job(params, inputs, dataset, category, seed, out)


def job(params, inputs, dataset, category, seed, out):
    """A job of one category; inputs that are None are left out."""
    given = {name: path for name, path in inputs.items() if path is not None}
    return Job(params, out, dataset, (category,), seed, inputs=given)


def make_backbone(params, out):
    backbone.run(Job(params, out))


def select_features(params, manifest, backbone, sdas, dataset, category, seed, out):
    inputs = {"manifest": manifest, "backbone": backbone, "sdas": sdas}
    afs.run(job(params, inputs, dataset, category, seed, out))


def train_realnet(*given):
    realnet.run(realnet_job(*given))


def fit_patchcore(params, manifest, backbone, dataset, category, seed, out):
    inputs = {"manifest": manifest, "backbone": backbone}
    patchcore.run(job(params, inputs, dataset, category, seed, out))
