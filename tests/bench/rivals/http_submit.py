"""Warren's HTTP API submits: `python http_submit.py latency COUNT` prints the median seconds until a task starts."""

import http.client
import os
import sys
from urllib.parse import urlsplit

import stamps


def main() -> None:
    """One task after the other over one connection, each confirmed."""
    connection = http.client.HTTPConnection(urlsplit(os.environ["WARREN_URL"]).netloc, timeout=30)
    path = f"/v1/queues/{os.environ['RIVAL_QUEUE']}/tasks"
    headers = {"Authorization": f"Bearer {os.environ['WARREN_TOKEN']}"}

    def send(body: str) -> None:
        connection.request("POST", path, body.encode(), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 202, text

    print(stamps.latency(send, int(sys.argv[2])))
    connection.close()


if __name__ == "__main__":
    main()
