"""The command line: one command a file, a typed function each; `cli` lists them all."""
