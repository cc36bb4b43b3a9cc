"""Checkpoints: our own format, and one foreign format a file."""

from dit_lab.checkpoints.own import save

__all__ = ["save"]
