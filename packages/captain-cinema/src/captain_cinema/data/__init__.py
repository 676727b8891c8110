"""Tiny cinema: drawn stories whose every detail can be checked, and the judge that checks it."""
