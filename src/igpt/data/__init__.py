"""Images: sources, packing, augmentation and batches."""
