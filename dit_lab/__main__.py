"""`python -m dit_lab`."""

from dit_lab.commands.cli import main

if __name__ == "__main__":
    main()
