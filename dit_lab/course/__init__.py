"""What the notebooks check answers with: exercises as data, one small engine, and the reader's progress and guesses."""

from dit_lab.course.checks import check
from dit_lab.course.exercise import NOTEBOOKS
from dit_lab.course.exercises import EXERCISES
from dit_lab.course.predictions import predict, reveal
from dit_lab.course.progress import passed

__all__ = ["EXERCISES", "NOTEBOOKS", "check", "passed", "predict", "reveal"]
