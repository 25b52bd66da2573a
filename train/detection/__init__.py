"""What training a detector has of its own: annotations, batches, losses and average precision."""
