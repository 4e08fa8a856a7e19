"""Measurements: ours and a peer side by side, medians of several runs, one row each in results.jsonl."""
