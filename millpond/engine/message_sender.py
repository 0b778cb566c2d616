"""MessageSender: what a delivery leaves behind is sent, and confirmed, before its original is deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from millpond.app.config import QueueSettings
from millpond.app.dead_letter import is_bare
from millpond.app.envelope import marks_of
from millpond.engine.books import Books
from millpond.engine.delivery import Delivery
from millpond.engine.processor import Processor
from millpond.engine.trouble import DENIED_OUT_SECONDS, OUT_SECONDS, Trouble, is_denied
from millpond.engine.unsent import EntryWriter, Sendings, Unsent
from millpond.hub.clock import Clock
from millpond.message import FollowUp, Outcome
from millpond.sqs.batcher import Batcher
from millpond.sqs.entries import results_of
from millpond.sqs.limits import MAX_DELAY_SECONDS
from millpond.sqs.queue import Entry, Failure, Queue

#: A follow-up that cannot be sent for this long is a dead letter.
FOLLOW_UP_SECONDS = 300.0
#: Sends linger this long to travel ten to a call.
SEND_LINGER_SECONDS = 0.02
NO_PLACE = Failure("", "there is no dead-letter queue", denied=True)


class SenderOwner(Protocol):
    """Who settles the deliveries. No method may block."""

    def all_sent(self, delivery: Delivery) -> object:
        """All is confirmed: the original can be deleted."""

    def put_off(self, delivery: Delivery, why: str) -> object:
        """The dead letter of the message cannot be sent."""

    def finish(self, deliveries: list[Delivery]) -> object:
        """Their leases were lost while their dead letters waited: whoever has the messages now sends them."""

    def gives_up(self, failure: Failure, since: float) -> bool:
        """Whether what has failed since then is not tried any longer."""

    def abandon(self, delivery: Delivery, failure: Failure) -> object:
        """Its follow-ups could not be sent before the drain was over."""


class MessageSender:
    """Sends the follow-ups and dead letters of one queue.

    1. The dead letter of a message goes first, its follow-ups after it. Where the dead-letter queue does not take it,
       or does not answer, the message is put off: nothing waits for a dead-letter queue.
    2. A follow-up that its own queue refuses is a dead letter. One that should be a dead letter, and is refused there,
       goes to its own queue. What both refuse is offered to both again: only a drain ends that.

    `dead_letters` may be known later.
    """

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        queue: Queue,
        dead_letters: Queue | None,
        processor: Processor,
        books: Books,
        owner: SenderOwner,
        clock: Clock,
        batcher: Callable[..., Batcher[Unsent]],
    ) -> None:
        self.dead_letters = dead_letters
        self._queue = queue
        self._processor = processor
        self._entries = EntryWriter(name, processor.where, clock, settings.is_fifo, marks_of(settings.envelope))
        self._books = books
        self._owner = owner
        self._clock = clock
        self._is_draining = False
        self._unsent_letters: dict[Unsent, None] = {}  # of messages themselves, the oldest first
        self._sending = Trouble("sqs:SendMessage", name, clock)
        self._dead_lettering = Trouble("sqs:SendMessage", name, clock)
        options: dict[str, Any] = {"linger_seconds": SEND_LINGER_SECONDS, "size_of": lambda unsent: unsent.size}
        if settings.is_fifo:  # within a group nothing overtakes what has failed before it
            options["key_of"] = lambda unsent: unsent.delivery.received.group_id
        self._follow_ups = batcher(self._send_follow_ups, **options)
        self._letters = batcher(self._send_letters, **options)

    @property
    def under_way(self) -> int:
        """Dead letters and follow-ups that are not sent yet."""
        return self._letters.count + self._follow_ups.count

    @property
    def is_full(self) -> bool:
        """Whether more waits to be sent than `max_waiting`."""
        return self._letters.is_full or self._follow_ups.is_full

    def hurry(self) -> None:
        """Let nothing linger, and wait for no dead-letter queue that does not answer: the drain has begun."""
        self._is_draining = True
        self._dead_lettering.hurry()
        self._follow_ups.hurry()
        self._letters.hurry()
        if self._dead_lettering.since:
            self._put_off_all()
        elif self._unsent_letters:
            self._clock.timer(OUT_SECONDS, self._put_off_all)

    def send(self, delivery: Delivery, outcome: Outcome) -> None:
        """Send its dead letter, if it is to be one, and then its follow-ups."""
        sendings = Sendings(delivery, self._clock.now(), len(outcome.follow_ups))
        if outcome.name != "dead_lettered":
            self._leave_behind(sendings)
            return
        letter = self._entries.letter_of_message(delivery, outcome)
        unsent = Unsent(sendings, letter=letter, why=outcome.reason)
        self._unsent_letters[unsent] = None
        self._letters.put(unsent)
        if self._is_draining:
            self._clock.timer(OUT_SECONDS, lambda: self._put_off(unsent))

    def _leave_behind(self, sendings: Sendings) -> None:
        if not sendings.unconfirmed:
            self._all_sent(sendings)
        for follow_up in sendings.delivery.outcome.follow_ups:
            unsent = Unsent(sendings, follow_up)
            if follow_up.reject is None:
                unsent.entry = self._entries.follow_up(sendings.delivery, follow_up, follow_up.after_seconds)
                self._follow_ups.put(unsent)
            else:
                self._make_letter(unsent, follow_up, follow_up.reject)
                self._letters.put(unsent)

    def _make_letter(self, unsent: Unsent, follow_up: FollowUp, why: str) -> None:
        unsent.why = why
        unsent.letter = self._entries.letter_of_follow_up(unsent.delivery, follow_up, why)

    # Calls

    def _send_follow_ups(self, batch: list[Unsent]) -> list[Unsent]:
        """Offer them to the queue itself. What is refused there becomes a dead letter."""
        again, refused = self._offer_entries([unsent for unsent in batch if not unsent.sendings.is_over])
        for unsent in refused:
            if unsent.follow_up is not None:
                self._make_letter(unsent, unsent.follow_up, f"it could not be sent: {unsent.failure.summary}")
        more, refused = self._offer_letters(refused)
        return again + more + self._held_on(refused)

    def _send_letters(self, batch: list[Unsent]) -> list[Unsent]:
        """Offer them to the dead-letter queue. What it refuses is put off; a follow-up goes to the queue itself."""
        again, refused = self._offer_letters([unsent for unsent in batch if not self._is_void(unsent)])
        for unsent in refused:
            if unsent.follow_up is None:
                self._put_off(unsent)
            else:  # its original must not run again
                seconds = self._processor.retry_seconds(unsent.delivery, most=MAX_DELAY_SECONDS)
                unsent.entry = self._entries.follow_up(unsent.delivery, unsent.follow_up, seconds)
        more, refused = self._offer_entries([unsent for unsent in refused if unsent.follow_up is not None])
        return again + more + self._held_on(refused)

    def _is_void(self, unsent: Unsent) -> bool:
        sendings = unsent.sendings
        if not sendings.is_over and unsent.follow_up is None and unsent.delivery.lease.is_lost(self._clock.now()):
            self._close(unsent)
            self._owner.finish([unsent.delivery])
        return sendings.is_over

    def _held_on(self, refused: list[Unsent]) -> list[Unsent]:
        """What to offer again of what nobody takes: all, for as long as its message can be held; less in a drain."""
        for unsent in refused:
            sendings = unsent.sendings
            if not sendings.is_over and self._owner.gives_up(unsent.failure, sendings.since):
                sendings.is_over = True
                self._owner.abandon(sendings.delivery, unsent.failure)
        return [unsent for unsent in refused if not unsent.sendings.is_over]

    def _offer_entries(self, batch: list[Unsent]) -> tuple[list[Unsent], list[Unsent]]:
        """Offer follow-ups to their own queue. Gives those to offer again, and those that it does not take."""
        entries = [unsent.entry for unsent in batch if unsent.entry is not None]
        left = self._offer(self._queue, self._sending, batch, entries)
        return _divided(left, lambda unsent: unsent.failure.sender_fault or self._lasts(unsent))

    def _lasts(self, unsent: Unsent) -> bool:
        waited = self._clock.now() - unsent.sendings.since
        return waited > (DENIED_OUT_SECONDS if is_denied(unsent.failure) else FOLLOW_UP_SECONDS)

    def _offer_letters(self, batch: list[Unsent]) -> tuple[list[Unsent], list[Unsent]]:
        """Offer them to the dead-letter queue. Gives those to offer again, and those that it does not take (now)."""
        queue, trouble = self.dead_letters, self._dead_lettering
        if queue is None or trouble.is_out():
            for unsent in batch:
                unsent.failure = trouble.last or NO_PLACE
            return [], batch
        left, with_reason = _divided(self._offer_once(queue, batch), Unsent.is_refused_with_reason)
        for unsent in with_reason:
            unsent.leave_reason_out()
        left += self._offer_once(queue, with_reason)
        again, refused = _divided(left, lambda unsent: unsent.failure.sender_fault or trouble.lasts)
        for unsent in refused:
            trouble.log(queue.url, unsent.failure, self._letters.count)
        return again, refused

    def _offer_once(self, queue: Queue, batch: list[Unsent]) -> list[Unsent]:
        letters = [unsent.letter for unsent in batch if unsent.letter is not None]
        return self._offer(queue, self._dead_lettering, batch, letters)

    def _offer(self, queue: Queue, trouble: Trouble, batch: list[Unsent], entries: list[Entry]) -> list[Unsent]:
        """Make one call. Gives those that were not sent, with their failures."""
        if not batch:
            return []
        started = self._clock.now()
        results = results_of(queue.send, entries)
        if trouble.since or any(results):
            # What is wrong with one entry is no trouble of the queue.
            about = [one for one in results if one is None or not one.sender_fault or is_denied(one)]
            trouble.read(queue.url, about, started, self._letters.count + self._follow_ups.count)
        left = []
        for unsent, failure in zip(batch, results, strict=True):
            if failure is None:
                self._confirmed(unsent, trouble is self._dead_lettering)
            else:
                unsent.failure = failure
                left.append(unsent)
        return left

    def _confirmed(self, unsent: Unsent, is_letter: bool) -> None:
        sendings = unsent.sendings
        if is_letter and unsent.follow_up is not None:
            self._books.follow_up_dead_lettered(unsent.delivery, unsent.follow_up, unsent.why)
        if is_letter and unsent.letter is not None and is_bare(unsent.letter):
            self._books.sent_without_reason(unsent.delivery, unsent.why)
        if sendings.is_over:
            return
        if unsent.follow_up is None:
            del self._unsent_letters[unsent]
            self._leave_behind(sendings)
            return
        sendings.unconfirmed -= 1
        if not sendings.unconfirmed:
            self._all_sent(sendings)

    # The end

    def _all_sent(self, sendings: Sendings) -> None:
        sendings.is_over = True
        self._owner.all_sent(sendings.delivery)

    def _put_off_all(self) -> None:
        for unsent in list(self._unsent_letters):
            self._put_off(unsent)

    def _put_off(self, unsent: Unsent) -> None:
        if unsent in self._unsent_letters:
            self._close(unsent)
            self._dead_lettering.put_off += 1
            self._owner.put_off(unsent.delivery, f"the dead-letter queue did not take it: {unsent.failure.summary}")

    def _close(self, letter: Unsent) -> None:
        letter.sendings.is_over = True
        del self._unsent_letters[letter]


def _divided(batch: list[Unsent], is_second: Callable[[Unsent], bool]) -> tuple[list[Unsent], list[Unsent]]:
    second = [unsent for unsent in batch if is_second(unsent)]
    return [unsent for unsent in batch if unsent not in second], second
