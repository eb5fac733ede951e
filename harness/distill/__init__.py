"""The losses and measures as pure functions of tensors, one module per loss (docs/losses.md)."""

from harness.distill.at import at_loss
from harness.distill.centers import class_centers, class_sums
from harness.distill.crd import crd_loss, memory_scores, normaliser
from harness.distill.crd_memory import CrdMemory, UnitProjection
from harness.distill.dkd import dkd_loss
from harness.distill.fitnet import fitnet_loss, fitnet_regressor
from harness.distill.kd import kd_divergence, kd_loss
from harness.distill.kd_standardised import standardised, standardised_kd_loss
from harness.distill.maps import same_size
from harness.distill.ncm import ncm_accuracy
from harness.distill.negatives import NegativeSampler, draw_negatives
from harness.distill.nst import nst_loss
from harness.distill.pkt import pkt_loss
from harness.distill.probe import linear_probe
from harness.distill.relations import same_class_pairs, unit_distances
from harness.distill.rkd import rkd_angle_loss, rkd_distance_loss, rkd_loss
from harness.distill.sp import sp_loss
from harness.distill.stage1 import stage1_loss
from harness.distill.stage2 import instance_weights, local_teaching_loss, teaching_loss
from harness.distill.vid import VidRegressor, vid_loss

__all__ = [
    "CrdMemory",
    "NegativeSampler",
    "UnitProjection",
    "VidRegressor",
    "at_loss",
    "class_centers",
    "class_sums",
    "crd_loss",
    "dkd_loss",
    "draw_negatives",
    "fitnet_loss",
    "fitnet_regressor",
    "instance_weights",
    "kd_divergence",
    "kd_loss",
    "linear_probe",
    "local_teaching_loss",
    "memory_scores",
    "ncm_accuracy",
    "normaliser",
    "nst_loss",
    "pkt_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "rkd_loss",
    "same_class_pairs",
    "same_size",
    "sp_loss",
    "stage1_loss",
    "standardised",
    "standardised_kd_loss",
    "teaching_loss",
    "unit_distances",
    "vid_loss",
]
