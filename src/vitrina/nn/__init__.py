"""Neural parts: embeddings, blocks, losses, proposals, and the loop that trains them. Needs torch."""
