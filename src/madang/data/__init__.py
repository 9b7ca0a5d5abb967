"""Storage, collection, validation, features, processing."""
