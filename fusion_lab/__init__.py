"""Rigorous experiments with multimodal fusion models on small data sets."""

__version__ = "0.1.0"
