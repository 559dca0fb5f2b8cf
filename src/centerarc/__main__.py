"""``python -m centerarc``: the command line, as torchrun wants it."""

from centerarc.cli import main

if __name__ == "__main__":
    main()
