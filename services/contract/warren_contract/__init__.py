"""What the parts of Warren agree on: names, task properties, event messages, broker settings and connection.

Nothing in here imports another part, and nothing but the standard library and pika: a worker imports this at
start, and a dozen workers may start at once on a small node.
"""
