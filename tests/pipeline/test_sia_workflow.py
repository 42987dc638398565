"""SIA in the DAG: only on request, one job per shard, and finished shards are kept."""

import csv
import shutil

import pytest

pytestmark = pytest.mark.pipeline

ONE = "experiment={datasets: {demo: [hex_nut]}}"


def test_sia_is_planned_only_on_request(finished):
    assert "draw_sia_shard" not in finished.planned("--forceall")
    planned = finished.planned("--config", ONE, "--", "sia")
    assert planned == {"draw_sia_shard": 2, "collect_sia": 1, "sia": 1}


@pytest.mark.slow
def test_sia_is_sampled_once(finished):
    folder = finished.root / "results/sia"
    try:
        finished.snakemake("--config", ONE, "--", "sia")
        with (folder / "demo/hex_nut/seed0/base/manifest.csv").open(newline="") as source:
            rows = list(csv.DictReader(source))
        assert [row["path"][:16] for row in rows] == ["images/shard000/"] * 4 + [
            *["images/shard001/"] * 2
        ]
        assert all((folder / "demo/hex_nut/seed0/base" / row["path"]).is_file() for row in rows)
        assert finished.planned("--config", ONE, "--", "sia") == {}
        # The last shard is filled up, and another one is added.
        more = finished.planned("--config", ONE, "sia={images: 10}", "--", "sia")
        assert more == {"draw_sia_shard": 2, "collect_sia": 1, "sia": 1}
        # Of the section sdas only the keys that SIA reads.
        assert finished.planned("--config", ONE, "sdas={images: 9}", "--", "sia") == {}
        assert "draw_sia_shard" in finished.planned(
            "--config", ONE, "sdas={start: image}", "--", "sia"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
