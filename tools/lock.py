"""Pin every dependency with its hashes, without download addresses: `python -m tools.lock [PACKAGE…]`.

Writes `requirements/<part>.txt` from the extras of pyproject.toml, for every Python and platform that the project
supports. With package names, only these are upgraded.
"""

import subprocess
import sys

PARTS = ("producer", "worker", "operator", "dev", "bench")


def main(upgrade: list[str]) -> None:
    """Pin the parts one after the other; ends with the resolver's own error where it finds no solution."""
    for part in PARTS:
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", part, "--quiet"),
            *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--no-emit-index-url", "--no-emit-find-links", "--no-emit-package", "warren"),
            *("--output-file", f"requirements/{part}.txt"),
        ]
        for package in upgrade:
            command += ["--upgrade-package", package]
        print(f"pinning requirements/{part}.txt", flush=True)
        subprocess.run(command, check=True, timeout=600)


if __name__ == "__main__":
    main(sys.argv[1:])
