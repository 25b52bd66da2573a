"""Implementations of the operators, one file each; `base.Backend` is their contract."""
