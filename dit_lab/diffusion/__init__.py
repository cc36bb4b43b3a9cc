"""Noise and back: the processes, what a network predicts in them, and the samplers that walk them."""
