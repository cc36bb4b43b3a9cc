"""`python -m dit_lab`."""

from dit_lab.cli import main

if __name__ == "__main__":
    main()
