"""Small trained checkpoints that ship with the package, one a folder, each with the recipe that made it."""
