"""Siamese networks for face verification: train, test and report."""

__version__ = "0.1.0"
