"""A queue that receives, and what the tests of its parts share."""

from millpond.errors import (
    Unavailable,
)
from millpond.sqs.queue import Failure, Received
from tests.rig import Rig

GONE = Failure("ReceiptHandleIsInvalid", "", sender_fault=True)


BROKEN = Failure("InternalError", "try again")


REFUSED = Failure("InvalidMessageContents", "no", sender_fault=True)


def fail(payload, message):
    raise ValueError("boom")


def run(clock, handlers, **settings):
    rig = Rig(clock, handlers, **settings)
    rig.consumer.pollers.start()
    return rig


def give_out_again(rig, one):
    rig.queue._hide(rig.queue.messages[one], 0)
    rig.queue._arrival.set()


def drain(rig, clock, seconds):
    rig.consumer.drain(clock.now() + seconds)


class Server:
    """What a handler needs, and cannot reach while it is down; `times`: when it was tried."""

    def __init__(self, clock, after):
        self.clock, self.after, self.up, self.times, self.ids = clock, after, False, [], []

    def __call__(self, payload, message):
        self.times.append(self.clock.now())
        self.ids.append(message.id)
        if not self.up:
            raise Unavailable("mail server down", after=self.after)


class MailServer:
    """What a handler of 0.2 s needs; `tries`: when each message was tried."""

    def __init__(self, clock, after=None):
        self.clock, self.after, self.up, self.tries = clock, after, True, []

    def __call__(self, payload, message):
        self.tries.append((self.clock.now(), message.id))
        self.clock.sleep(0.2)
        if not self.up:
            raise Unavailable("mail server down", after=self.after)


def received(rig, message_id, count):
    """This receive of a message, as an answer has it; a permit is held for it."""
    rig.permits.free -= 1
    rig.consumer._share.held += 1
    return Received(message_id, f"{message_id}#{count}", rig.queue.messages[message_id].entry.body, count)
