"""The auth service: users, permissions, and the tokens that every service verifies."""
