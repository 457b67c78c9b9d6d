"""The `warren` command and the Python client."""
