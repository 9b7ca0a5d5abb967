"""Experiments, the model registry, tuning."""
