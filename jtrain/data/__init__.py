"""Data: sources, the order of examples, augmentation, and the feed to the device."""
