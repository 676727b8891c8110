"""Entry points of `make train-gspo` and `make evaluate-gspo`."""
