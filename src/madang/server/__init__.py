"""The HTTP API, and the supervisor that keeps Madang's processes running."""
