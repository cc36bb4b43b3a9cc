"""How good samples are: labelled samples in a folder, what they are judged by, and the figures that come out."""

from dit_lab.evaluation.features import Classifier, Network, everything, judge, judge_for, train_classifier
from dit_lab.evaluation.judges import Judge, digits_judge, zoo_judge
from dit_lab.evaluation.judging import Judging, open_judge
from dit_lab.evaluation.making import Maker
from dit_lab.evaluation.measuring import Measured, measure
from dit_lab.evaluation.metrics import agreement, frechet_distance, inception_score, kernel_distance, precision_recall
from dit_lab.evaluation.samples import Samples, Sampling, draw

__all__ = [
    "Classifier", "Judge", "Judging", "Maker", "Measured", "Network", "Samples", "Sampling", "agreement",
    "digits_judge", "draw", "everything", "frechet_distance", "inception_score", "judge", "judge_for",
    "kernel_distance", "measure", "open_judge", "precision_recall", "train_classifier", "zoo_judge",
]  # fmt: skip
