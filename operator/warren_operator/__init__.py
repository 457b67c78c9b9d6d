"""The operator: observe, decide, act, explain."""
