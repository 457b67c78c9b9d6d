"""Warren's operator: observes the queues, decides how many workers each needs, acts, and explains itself."""
