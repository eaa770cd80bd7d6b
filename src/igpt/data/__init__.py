"""Images: where they come from, how they are packed, in which batches they leave."""
