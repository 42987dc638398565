"""Seeded faults: small bugs, each with the test that must notice it (`make test-faults`).

Each fault replaces one piece of text in a copy of the project, in which its test is then run; the
test has to fail. ``python tests/seeded_faults.py TEXT...`` runs those whose names contain TEXT.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checkout import copy_files

FAILED = 1  # exit status of pytest where tests ran and failed; others are errors of the run itself


@dataclass(frozen=True)
class Fault:
    """Replace ``old``, which ``file`` contains exactly once, by ``new``."""

    name: str
    file: str  # below realnet/
    old: str
    new: str
    test: str  # below tests/

    @property
    def path(self) -> Path:
        return Path("realnet", self.file)

    def apply(self, root: Path) -> str:
        """Change the file below ``root`` and return its previous text.

        Raises ValueError if ``old`` does not occur exactly once.
        """
        path = root / self.path
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.path}: {self.old!r} occurs {count} times, expected once")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        return text


FAULTS = (
    # --- stages ---
    Fault(
        "data: empty masks are accepted",
        "datasets/manifest.py",
        'if is_empty and rule.empty == "error":',
        "if False:",
        "datasets/test_data_manifest.py::test_an_empty_mask_is_an_error",
    ),
    Fault(
        "data: digests of images are not verified",
        "datasets/images.py",
        "if digest and hashlib.sha256(data).hexdigest() != digest:",
        "if False:",
        "core/test_stopping.py::test_images_are_checked_against_the_manifest",
    ),
    Fault(
        "backbone: images are not scaled by the standard deviation",
        "models/features.py",
        "(image - self.mean) / self.std",
        "(image - self.mean)",
        "models/test_backbone.py::test_normalisation_is_part_of_the_extractor",
    ),
    Fault(
        "ddpm: sign in the target of v-prediction",
        "diffusion/loss.py",
        "return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean",
        "return alpha.sqrt() * noise + (1 - alpha).sqrt() * clean",
        "diffusion/test_loss.py::test_all_three_prediction_types_describe_the_same_image",
    ),
    Fault(
        "ddpm: accumulated gradients are not averaged",
        "training/denoiser_training.py",
        "determinism.backward(scaled / params.accumulation if mean else scaled)",
        "determinism.backward(scaled)",
        "diffusion/test_ddpm.py::test_accumulation_and_micro_batches_do_not_change_an_update",
    ),
    Fault(
        "classifier: guidance away from the class",
        "diffusion/guidance.py",
        "return scale * gradient",
        "return -scale * gradient",
        "diffusion/test_classifier.py::test_gradient_against_the_closed_form",
    ),
    Fault(
        "sdas: the standard deviation grows by 1 + s",
        "diffusion/scheduler.py",
        "torch.sqrt(1 + scale)",
        "(1 + scale)",
        "diffusion/test_scheduler.py::test_variance_grows_by_one_plus_s",
    ),
    Fault(
        "sdas_check: samples are compared with themselves",
        "metrics/image_sets.py",
        "distance(own, half) for pair in pairs",
        "distance(half, half) for pair in pairs",
        "diffusion/test_sample_check.py::test_brighter_samples_are_flagged_with_the_number_of_grey_levels",
    ),
    Fault(
        "sia: images of a finished shard are not verified",
        "diffusion/shards.py",
        'if not path.is_file() or sha256(path) != row["sha256"]:',
        "if not path.is_file():",
        "diffusion/test_sia.py::test_only_a_damaged_shard_is_regenerated",
    ),
    Fault(
        "afs: the range of the differences is not normalised",
        "models/afs.py",
        "(difference - low) / (high - low + 1e-4)",
        "(difference - low) / (high + 1e-4)",
        "models/test_afs.py::test_afs_scores_match_a_loop_over_channels",
    ),
    Fault(
        "afs: the worst channels are kept",
        "models/afs.py",
        ".argsort(stable=True)[:count]",
        ".argsort(stable=True, descending=True)[:count]",
        "models/test_afs.py::test_selection_modes",
    ),
    Fault(
        "realnet: the weight of the segmentation loss is ignored",
        "stages/realnet.py",
        "params.segmentation_weight * segmentation",
        "segmentation",
        "training/test_training.py::test_loss_weights",
    ),
    Fault(
        "realnet: residuals are not squared",
        "models/realnet.py",
        "(f.float() - g.float()) ** 2",
        "(f.float() - g.float()).abs()",
        "models/test_realnet.py::test_residuals_are_squared_differences_at_the_finest_size",
    ),
    Fault(
        "realnet: RRS ranks means by the maximum",
        "models/rrs.py",
        "standard.mean((2, 3))",
        "standard.amax((2, 3))",
        "models/test_realnet.py::test_rrs_matches_a_loop",
    ),
    Fault(
        "realnet: RRS ranks raw residuals",
        "models/rrs.py",
        "residuals if self.norm is None else self.norm(residuals)",
        "residuals",
        "models/test_networks.py::test_rrs_ranks_standardised_residuals_and_returns_raw_ones",
    ),
    Fault(
        "patchcore: the coreset takes the nearest point",
        "detectors/patch_memory.py",
        "place = distances.argmax()",
        "place = distances.abs().argmin()",
        "detectors/test_patchcore.py::test_coreset_matches_plain_greedy_selection",
    ),
    Fault(
        "patchcore: the image score is not reweighted",
        "detectors/patch_memory.py",
        "return (1 - (score - torch.logsumexp(others, 1)).exp()) * score",
        "return score",
        "detectors/test_patchcore.py::test_image_score_matches_equation_7",
    ),
    Fault(
        "evaluate: the best checkpoint is measured with the last one's weights",
        "stages/evaluate.py",
        "best = score(selected, test",
        "best = score(detector, test",
        "training/test_selection.py::test_one_run_gives_four_protocols",
    ),
    Fault(
        "report: a median in the place of the mean over categories",
        "tables/runs.py",
        "means.append(statistics.fmean(known))",
        "means.append(statistics.median(known))",
        "tables/test_report_protocols.py"
        "::test_the_papers_numbers_are_beside_the_reference_in_their_protocol",
    ),
    Fault(
        "report: a claim counts as reproduced whatever its sign",
        "tables/verdict_rules.py",
        "REPRODUCED if difference > 0 else FAILED",
        "REPRODUCED",
        "tables/test_verdicts.py::test_verdict_of_a_claim",
    ),
    Fault(
        "tracking: population standard deviation over seeds",
        "tracking/means.py",
        "statistics.stdev(means)",
        "statistics.pstdev(means)",
        "tracking/test_tracking.py::test_means_and_standard_deviations_over_seeds",
    ),
    # --- synthesis ---
    Fault(
        "Perlin: cubic in the place of the quintic fade",
        "synthesis/perlin.py",
        "t**3 * (t * (6 * t - 15) + 10)",
        "t**2 * (3 - 2 * t)",
        "synthesis/test_synthesis.py::test_perlin_noise_matches_its_definition",
    ),
    Fault(
        "anomalies: the opacity of the wrong image",
        "synthesis/synthesiser.py",
        "torch.lerp(image.float(), patch.float(), opacity)",
        "torch.lerp(patch.float(), image.float(), opacity)",
        "synthesis/test_sources.py::test_blend_matches_its_formula",
    ),
    # --- metrics ---
    Fault(
        "AUROC: a tie counts as won",
        "metrics/ranks.py",
        "return self.above + self.reaching",
        "return self.above + self.above",
        "metrics/test_metrics.py::test_all_ties",
    ),
    Fault(
        "ranks: parts counted in threads lose one normal score each",
        "metrics/ranks.py",
        "self.normals + other.normals",
        "max(self.normals, other.normals)",
        "metrics/test_metrics.py::test_pixel_metrics_match_pair_counts_and_sklearn",
    ),
    Fault(
        "AU-PRO: no part of the step that crosses the limit",
        "metrics/sums.py",
        "area = area + step *",
        "area = area + 0 * step *",
        "metrics/test_metrics.py::test_pro_matches_the_area_under_the_sorted_curve",
    ),
    Fault(
        "AU-PRO: 4-connected regions",
        "metrics/regions.py",
        "connectivity=8",
        "connectivity=4",
        "metrics/test_metrics.py::test_diagonal_scratch_is_one_region",
    ),
    Fault(
        "official PRO: overlap by the filled area",
        "metrics/official.py",
        "/ region.sum())",
        "/ filled.sum())",
        "metrics/test_official_metrics.py::test_a_false_positive_in_a_hole_exceeds_one",
    ),
    Fault(
        "official AUROC: not flipped",
        "metrics/official.py",
        "return 1 - auroc if auroc < 0.5 else auroc",
        "return auroc",
        "metrics/test_official_metrics.py"
        "::test_image_and_pixel_auroc_are_flipped_and_labels_come_from_masks",
    ),
    Fault(
        "AUPIMO: linear false positive rates",
        "metrics/sums.py",
        "((b - a) - x0 * np.log(b / a))",
        "((b - a) - x0 * (b - a))",
        "metrics/test_metrics.py::test_aupimo_is_the_mean_recall_over_log_rates",
    ),
    Fault(
        "AUPIMO: normal pixels of all images",
        "metrics/pixel.py",
        "return images & ~(labels > 0)",
        "return images | (labels > 0)",
        "metrics/test_metrics.py::test_aupimo_counted_by_hand",
    ),
    Fault(
        "bootstrap: all categories draw the same",
        "metrics/uncertainty.py",
        'numpy_generator(seed, "bootstrap", name, stratum)',
        'numpy_generator(seed, "bootstrap", stratum)',
        "metrics/test_uncertainty.py::test_resamples_depend_only_on_seed_name_and_strata",
    ),
    Fault(
        "bootstrap: images are not resampled within their defect type",
        "metrics/uncertainty.py",
        "for stratum in np.unique(strata).tolist():\n"
        "        members = np.flatnonzero(strata == stratum)",
        "for stratum in np.unique(strata)[:1].tolist():\n        members = np.arange(len(strata))",
        "metrics/test_uncertainty.py::test_strata_keep_their_sizes_and_images_are_sampled_uniformly",
    ),
    Fault(
        "Holm: Bonferroni's factor for all",
        "metrics/uncertainty.py",
        "(len(order) - rank)",
        "len(order)",
        "metrics/test_uncertainty.py::test_holm_by_hand",
    ),
    # --- seeds ---
    Fault(
        "seeds: the item is ignored",
        "core/seeds.py",
        "for part in (seed, *names))",
        "for part in (seed, *names[:-1]))",
        "core/test_seeds_io.py::test_seeds_depend_on_every_name_and_fit_63_bits",
    ),
    Fault(
        "seeds: every step draws the anomalies of the first",
        "stages/realnet.py",
        "step * params.batch_size + mine.first",
        "mine.first",
        "training/test_training.py::test_every_step_has_new_anomalies",
    ),
    Fault(
        "realnet: recomputed statistics keep the momentum of the training",
        "training/precise_bn.py",
        "norm.momentum = 1 / (k + 1)",
        "pass",
        "training/test_precise_bn.py::test_statistics_are_means_over_the_batches",
    ),
    Fault(
        "patchcore: a patch beyond the candidates is overlooked",
        "detectors/patch_memory.py",
        "if distances[place] <= bound:",
        "if False:",
        "detectors/test_patchcore.py::test_coreset_matches_plain_selection_beyond_its_candidates",
    ),
    Fault(
        "data: the rule for masks is not recorded",
        "datasets/manifest.py",
        "mask_threshold=rule.threshold if mask else None",
        "mask_threshold=None",
        "datasets/test_split_tables.py::test_the_mask_threshold_reaches_the_evaluation",
    ),
    Fault(
        "metrics: pixels without ground truth are normal",
        "metrics/arrays.py",
        "return defect & labelled, ~defect & labelled",
        "return defect & labelled, ~(defect & labelled)",
        "metrics/test_metrics.py::test_pixel_metrics_leave_out_images_without_ground_truth",
    ),
    Fault(
        "realnet: a checkpoint is selected on images without pixel ground truth",
        "training/checkpoint_selection.py",
        'if item.split == "test" and item.pixel_labelled]',
        'if item.split == "test"]',
        "training/test_selection.py::test_images_without_pixel_ground_truth_are_not_selected_on",
    ),
    Fault(
        "evaluate: official labels of images without pixel ground truth",
        "evaluation/protocols.py",
        "expit(margins[pixel_labelled]), masks[pixel_labelled], pool",
        "expit(margins), masks, pool",
        "evaluation/test_evaluate_image_only.py::test_pixel_metrics_are_those_without_the_images",
    ),
    Fault(
        "backbone: the file of a weight package is not verified",
        "models/weight_packages.py",
        "if digest != package.sha256:",
        "if False:",
        "models/test_weight_packages.py::test_a_changed_file_is_named",
    ),
    # --- code triggers ---
    Fault(
        "trigger: docstrings count",
        "core/fingerprint.py",
        "[s for s in block if not is_bare_string(s) and not is_typing_only(s)]",
        "[s for s in block if not is_typing_only(s)]",
        "core/test_fingerprint.py::test_what_changes_no_result_changes_no_fingerprint",
    ),
    Fault(
        "trigger: assignments of text do not count",
        "core/fingerprint.py",
        "if not (self.functions and isinstance(target, ast.Name)):",
        "if not isinstance(target, ast.Name):",
        "core/test_fingerprint.py",
    ),
    Fault(
        "trigger: the packages above a module are left out",
        "provenance/stage_code.py",
        'todo += [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]',
        "pass",
        "provenance/test_stage_code.py::test_code_of_the_packages_above_a_module_is_its_code",
    ),
    Fault(
        "trigger: a package imported whole is left out",
        "provenance/stage_code.py",
        "todo += [] if names else _whole(base, root)",
        "todo += []",
        "provenance/test_stage_code.py::test_closure_of_every_kind_of_import",
    ),
    # --- locks ---
    Fault(
        "lock: two processes train into one folder",
        "training/checkpoint.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "core/test_stopping.py::test_a_second_process_waits_for_the_first",
    ),
    Fault(
        "lock: two processes sample one shard",
        "diffusion/shards.py",
        "        lock.acquire()\n",
        "        pass\n",
        "diffusion/test_sia.py::test_a_killed_run_resumes_at_the_next_shard",
    ),
    Fault(
        "lock: two writers to MLflow",
        "tracking/store.py",
        "        lock.acquire()\n",
        "        pass\n",
        "tracking/test_tracking_offline.py"
        "::test_a_second_writer_times_out_and_its_results_are_pending",
    ),
    Fault(
        "lock: one GPU for two jobs",
        "compute/gpu.py",
        "fcntl.LOCK_EX |",
        "fcntl.LOCK_SH |",
        "compute/test_gpu.py::test_concurrent_jobs_get_different_devices_and_the_rest_wait",
    ),
    # --- resume ---
    Fault(
        "resume: the learning rate starts over",
        "training/fit.py",
        "part.load_state_dict(state[name])",
        'name == "schedule" or part.load_state_dict(state[name])',
        "stages/test_stages.py::test_a_killed_training_resumes_to_identical_weights",
    ),
    Fault(
        "resume: the average of the weights starts over",
        "training/fit.py",
        "part.load_state_dict(state[name])",
        'name == "ema" or part.load_state_dict(state[name])',
        "stages/test_stages.py::test_a_killed_diffusion_training_resumes_to_identical_weights",
    ),
    Fault(
        "resume: earlier evaluations on the test set are forgotten",
        "training/checkpoint_selection.py",
        'self.rows = list(state["rows"])',
        "self.rows = []",
        "training/test_selection.py::test_a_killed_training_keeps_the_best_checkpoint",
    ),
    Fault(
        "resume: a checkpoint of other parameters",
        "training/checkpoint.py",
        'if state.get("identity") != self.identity:',
        "if False:",
        "stages/test_stages.py::test_a_checkpoint_of_other_parameters_is_not_resumed",
    ),
    Fault(
        "resume: checksums of a checkpoint are not verified",
        "training/checkpoint.py",
        "(damaged := archive.testzip()) is not None",
        "(damaged := None) is not None",
        "core/test_stopping.py::test_a_flipped_bit_of_a_checkpoint_is_detected",
    ),
)


def main(names: list[str]) -> int:
    """Run the faults; return 1 if one is not caught or cannot be applied."""
    chosen = [fault for fault in FAULTS if not names or any(n in fault.name for n in names)]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        root = copy_files(Path(folder))
        # All tests must pass without a fault, else their failure proves nothing.
        tests = sorted({fault.test for fault in chosen})
        if (status := _pytest(root, *tests).returncode) != 0:
            print(f"the tests do not pass without a fault: pytest ended with status {status}")
            return 1
        for fault in chosen:
            try:
                before = fault.apply(root)
            except ValueError as error:
                verdict = f"NOT TRIED: {error}"
            else:
                status = _pytest(root, fault.test).returncode
                verdict = "caught" if status == FAILED else f"NOT CAUGHT (pytest: {status})"
                (root / fault.path).write_text(before, encoding="utf-8")
            bad += verdict != "caught"
            print(f"{verdict:12}{fault.name}  [{fault.test}]", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} caught")
    return 1 if bad else 0


def _pytest(root: Path, *tests: str) -> subprocess.CompletedProcess[bytes]:
    # No bytecode: Python compares size and time in seconds, which a fault may leave unchanged.
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        + [f"tests/{test}" for test in tests],
        cwd=root,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
