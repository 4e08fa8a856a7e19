"""Neural parts: embeddings, blocks, losses, proposals of negatives, and the loop that trains them. Needs torch."""
