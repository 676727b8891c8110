"""Entry points of `make train-cinema`, `make generate-cinema` and `make evaluate-cinema`."""
