"""The transformer: pure torch."""
