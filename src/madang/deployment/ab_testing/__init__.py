"""Rollouts: shadow, canary, A/B and bandit, with a promise about error rates."""
