"""The guidance classifier in the DAG: only on request, once per dataset; errors come early."""

import pytest

pytestmark = pytest.mark.pipeline

JOINT, GUIDED = "ddpm={scope: dataset}", "sdas={guidance_scale: 1.0}"


def test_one_classifier_for_all_guided_categories(finished):
    joint = finished.planned("--config", JOINT, "--", "sdas")
    assert joint == {"train_ddpm": 1, "sample_sdas": 2, "sdas": 1}
    guided = finished.planned("--config", JOINT, GUIDED, "--", "sdas")
    assert guided == joint | {"train_classifier": 1}
    assert "train_classifier" not in finished.planned("--", "classifier")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([GUIDED], "guidance_scale 1 guides to one category among others and needs ddpm.scope"),
        ([JOINT, GUIDED, "experiment={datasets: {demo: [hex_nut]}}"], "demo has only one category"),
    ],
)
def test_guidance_of_one_category_is_refused(finished, config, message):
    output = finished.snakemake("--dry-run", "--config", *config, ok=False)
    assert message in output and "Traceback" not in output
