"""Identity, secrets."""
