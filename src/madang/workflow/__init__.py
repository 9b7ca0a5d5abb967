"""Pipelines, and where their steps run."""
