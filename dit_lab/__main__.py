"""`python -m dit_lab`."""

from dit_lab.program import interruptible

if __name__ == "__main__":
    with interruptible():
        from dit_lab.commands.cli import main
    main()
