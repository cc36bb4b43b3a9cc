"""How good samples are: labelled samples in a folder, what they are judged by, and the figures that come out."""

from dit_lab.evaluation.features import Classifier, Network, everything, judge, judge_for, train_classifier
from dit_lab.evaluation.judging import Judging, measure, open_judge
from dit_lab.evaluation.metrics import agreement, frechet_distance, inception_score, kernel_distance, precision_recall
from dit_lab.evaluation.samples import Samples, Sampling, draw

__all__ = [
    "Classifier", "Judging", "Network", "Samples", "Sampling", "agreement", "draw", "everything", "frechet_distance",
    "inception_score", "judge", "judge_for", "kernel_distance", "measure", "open_judge", "precision_recall",
    "train_classifier",
]  # fmt: skip
