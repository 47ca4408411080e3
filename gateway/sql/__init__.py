"""The statements that store batches, and their parameters."""
