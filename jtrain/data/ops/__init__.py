"""The operations of augmentation, on batches of images."""
