"""LightningModules: a batch of tokens in, a loss and logs out."""
