"""What would have happened: the operator's own decisions, and its rivals', on a model of the cluster."""
