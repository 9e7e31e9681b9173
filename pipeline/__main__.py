"""`python -m textsmooth.pipeline`: the same as `textsmooth`; for torchrun, which takes a module."""

from textsmooth.pipeline.cli.app import main

if __name__ == "__main__":
    main()
