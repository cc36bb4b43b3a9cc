"""Training as a generator of steps: one process or many, stopped and resumed bit for bit, and what a run leaves."""
