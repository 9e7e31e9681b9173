"""The steps: data in, data out. Know neither ray nor click, and run where there is only torch, transformers, pyarrow, numpy."""
