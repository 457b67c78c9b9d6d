"""The worker: takes tasks one at a time and acknowledges each when it is done."""
