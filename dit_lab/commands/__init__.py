"""The command line: one command a file, a typed function each; `cli` lists them all."""

from dit_lab import lazily

# When first used: the list of commands alone must not wait for PyTorch.
COMMANDS = "train", "sample", "evaluate", "encode", "convert", "count", "bench"
__getattr__, __dir__, __all__ = lazily(__name__, {f"{name}_command": name for name in COMMANDS})
