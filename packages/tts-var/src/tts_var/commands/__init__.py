"""Entry points of `make train-var`, `make sample-var` and `make evaluate-var`."""
