"""Evaluators, probes and the final report of a trained model."""
