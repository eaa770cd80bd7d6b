"""Tasks, and the LightningModule that trains a model on one: a batch of tokens in, a loss and logs out."""
