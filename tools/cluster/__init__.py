"""A real Kubernetes on this machine: `python -m tools.cluster up`.

`kind` where Docker can pull its node image; else our own node: the programs of Kubernetes, built from their Go modules,
in a network namespace of their own. `docs/adr/0004-a-real-node-for-development.md` says why and how.
"""
