"""The types of settings: what a key may be, with its limits, and in the words of a finding."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

_URL = r"https?://[^\s/]+\S*"
WHERE_QUEUES_ARE = '"local", or the URL of a queue, https://...'

Text = Annotated[str, Meta(description="a text in quotes")]
Url = Annotated[str, Meta(pattern=rf"^({_URL})?\Z", description="a URL, https://...")]
QueuePlace = Annotated[str, Meta(pattern=rf"^(local|{_URL})?\Z", description=WHERE_QUEUES_ARE)]
# No colon, or the many of an IPv6 address: "host:port" is one that people try.
Host = Annotated[
    str,
    Meta(pattern=r"^([^\s/:]*|[^\s/:]*:[^\s/:]*:[^\s/]*)\Z", description="a host name or an address, without its port"),
]
Port = Annotated[int, Meta(ge=1, le=65_535, description="1 to 65535, a whole number")]
PortOrAny = Annotated[int, Meta(ge=0, le=65_535, description="0 (any free one) to 65535, a whole number")]
Folders = Annotated[tuple[str, ...], Meta(min_length=1, description='a list of folders and modules, ["handlers"]')]
# CloudWatch: Namespace of its format for logs (EMF).
Namespace = Annotated[
    str, Meta(pattern=r"^([A-Za-z0-9_.#/:-]{1,255})?\Z", description="1 to 255 letters, digits, and ._-/#:")
]
MetricNames = Annotated[tuple[str, ...], Meta(description='a list of names, ["succeeded", "worker.slots"]')]
Positive = Annotated[int, Meta(ge=1, description="a whole number, 1 or more")]
Seconds = Annotated[float, Meta(ge=0, description="0 seconds or more")]
Rate = Annotated[float, Meta(ge=0, description="0 or more")]
# "until done": without an end, for platforms that wait.
DrainSeconds = Annotated[
    Annotated[float, Meta(ge=1)] | Literal["until done"], Meta(description='1 second or more, or "until done"')
]
BlockSeconds = Annotated[float, Meta(ge=5, description="5 seconds or more")]
ThreadNumber = Annotated[int, Meta(ge=1, le=1_000, description="1 to 1000, a whole number")]
ProcessNumber = Annotated[
    Annotated[int, Meta(ge=1, le=1_000)] | Literal["cores"], Meta(description='1 to 1000, a whole number, or "cores"')
]
Megabytes = Annotated[int, Meta(ge=0, description="a whole number, 0 or more")]
InHandBytes = Annotated[int, Meta(ge=1, description="a whole number, 1 or more")]
# SQS: at most 120,000 messages of a standard queue are in flight.
Concurrency = Annotated[int, Meta(ge=1, le=120_000, description="1 to 120000, a whole number")]
Places = Annotated[int, Meta(ge=0, le=120_000, description="0 to 120000, a whole number")]
Weight = Annotated[float, Meta(gt=0, le=1_000, description="a number above 0, 1000 at most")]
# SQS: WaitTimeSeconds, a whole number. 0 would be a short poll, which asks a part of the servers and misses messages.
WaitSeconds = Annotated[int, Meta(ge=1, le=20, description="1 to 20 seconds, a whole number")]
# SQS: MaxNumberOfMessages.
MaxMessages = Annotated[int, Meta(ge=1, le=10, description="1 to 10, a whole number")]
# SQS: VisibilityTimeout, a whole number, 12 h at most. A back-off travels in it.
VisibilitySeconds = Annotated[int, Meta(ge=1, le=43_200, description="1 to 43200 seconds, a whole number")]
DelaySeconds = Annotated[float, Meta(ge=0, le=43_200, description="0 to 43200 seconds")]
