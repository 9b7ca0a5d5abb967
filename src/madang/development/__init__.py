"""Modeling, experiments, the model registry, tuning."""
