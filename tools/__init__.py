"""What runs on a developer's machine and in CI: the local cluster, the images, the demo."""
