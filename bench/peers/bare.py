"""No consumer: receives in a tight loop and notes what came. It deletes nothing and decodes no message."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
from urllib.parse import urlsplit

from bench.peers.book import Book

NUMBER = re.compile(rb'\\"n\\": (\d+)')


def main() -> None:
    endpoint = urlsplit(os.environ["BENCH_ENDPOINT"])
    authority = os.environ.get("SSL_CERT_FILE")
    if authority:
        context = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection(endpoint.netloc, context=context)
    else:
        connection = http.client.HTTPConnection(endpoint.netloc)
    receive = json.dumps({"QueueUrl": os.environ["BENCH_QUEUE_URL"], "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20})
    book = Book()
    while True:
        connection.request("POST", "/", receive, {"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
        for number in NUMBER.findall(connection.getresponse().read()):
            book.start(int(number))
            book.end()


if __name__ == "__main__":
    main()
