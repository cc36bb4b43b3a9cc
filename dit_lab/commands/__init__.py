"""The command line: one command a file, a typed function each; `cli` lists them all."""

from dit_lab import lazily

# When first used: the list alone must not wait for PyTorch.
__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "train_command": "train",
        "sample_command": "sample",
        "evaluate_command": "evaluate",
        "encode_command": "encode",
        "convert_command": "convert",
        "count_command": "count",
        "bench_command": "bench",
    },
)
