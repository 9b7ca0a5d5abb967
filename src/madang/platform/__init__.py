"""Configuration, logs, code versions."""
