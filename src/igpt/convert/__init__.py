"""Weights in and out: models of the Hugging Face library transformers, and igpt's own exported folders."""
