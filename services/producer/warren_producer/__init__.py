"""The producer: HTTP in, confirmed tasks out."""
