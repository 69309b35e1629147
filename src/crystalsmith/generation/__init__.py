"""Generation: requests to batches to files, streamed and resumable."""
