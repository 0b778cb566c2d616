"""A command on the command line, and what its `--help` says below its options: examples, exit codes."""

from __future__ import annotations

from typing import Any


def add_command(commands: Any, common: Any, name: str, text: str, examples: str) -> Any:
    """The parser of a command, or of an action of `dlq`; its description is the text as a sentence."""
    description = f"{text[0].upper()}{text[1:]}."
    return commands.add_parser(name, help=text, description=description, epilog=examples, parents=[common])


EXAMPLES = """\
examples:
  %(prog)s -c config.toml                 run
  %(prog)s -c config.toml --until-empty   run, and stop when nothing is left
  %(prog)s -c config.toml --demo 25       run, with 25 sample e-mails in the local queue
  %(prog)s -c config.toml check           find what is wrong before it matters
  %(prog)s -c config.toml send email.send '{"to": ["ann@example.com"], "subject": "Hello", "text": "Hi"}'
  %(prog)s status                         what the workers on this machine do
  %(prog)s -c config.toml dlq ls --group  count the dead letters by what went wrong
  %(prog)s dlq replay --help              each command has a --help of its own

exit codes: 0 stopped in order, 1 some messages are left (they come back after their visibility time-out), 2 crash,
3 bad configuration or boot, or all queues refused
"""
CHECK_EXAMPLES = """\
examples:
  %(prog)s                    here, with the rights that this shell has
  %(prog)s --platform heroku  as it would be there
  %(prog)s --json             for a program

Nothing is received, sent or changed.

exit codes: 0 it can work, though there may be warnings, 3 it cannot
"""
SEND_EXAMPLES = """\
examples:
  %(prog)s email.send @mail.json
  %(prog)s invoice.created '{"number": "7"}' --queue invoices --delay 60 --attribute tenant=acme
  jq '.payload' event.json | %(prog)s invoice.created - --count 100
  %(prog)s s3:ObjectCreated:Put @notification.json --raw   the whole body, as another program sends it

exit codes: 0 all were sent, 1 some were not (each is named), 3 none can be sent
"""
RUN_EXAMPLES = """\
examples:
  %(prog)s invoice.created '{"number": "7", "cents": 100}'
  %(prog)s invoice.created @invoice.json --attempt 3

The worker itself is started without any command.

exit codes: 0 it succeeded, 1 it did not, 3 no handler takes this type, or the payload is not JSON
"""
CLAIMS_EXAMPLES = """\
examples:
  %(prog)s show 8c1f0a1e
  %(prog)s release 8c1f0a1e --type invoice.created
  %(prog)s release 'invoice.created 8c1f0a1e'

exit codes: 0 shown, or removed, 1 there is no such record, or a worker has it, 3 the table cannot be asked
"""
_LOOK_CODES = "exit codes: 0 shown, 1 no worker answers\n"
_STEER_CODES = """\
It reaches the workers of the same user in the same container: with Docker, type it there (docker exec).

exit codes: 0 done, 1 no worker answers, or it refuses, 3 there are several: choose by --worker or --all
"""
STEERING_EXAMPLES = {
    "status": f"""\
examples:
  %(prog)s
  %(prog)s --worker web.1
  %(prog)s --url http://10.0.0.7:8080   a worker elsewhere, by its page ([http] listen)
  %(prog)s --json | jq .running

{_LOOK_CODES}""",
    "top": f"""\
examples:
  %(prog)s
  %(prog)s --seconds 0.5 --worker web.1

Ctrl-C ends it.

{_LOOK_CODES}""",
    "quiet": f"""\
examples:
  %(prog)s                 the only worker here, all its queues
  %(prog)s emails --all    this queue, in every worker here
  %(prog)s --worker web.1  and `resume --worker web.1` undoes it

{_STEER_CODES}""",
    "resume": f"""\
examples:
  %(prog)s
  %(prog)s emails --all    this queue, in every worker here

{_STEER_CODES}""",
    "level": f"""\
examples:
  %(prog)s debug           each message, receive and batch has a line
  %(prog)s info --all

It lasts until the worker ends; [log] level is what it starts with.

{_STEER_CODES}""",
    "weight": f"""\
examples:
  %(prog)s emails 3        three times the places of a queue with weight 1, under load
  %(prog)s emails 3 --all

It lasts until the worker ends; weight in [queues.emails] is what it starts with.

{_STEER_CODES}""",
    "dump": f"""\
examples:
  %(prog)s
  %(prog)s --worker web.1

The dump is in the log of the worker, not here.

{_STEER_CODES}""",
}
DLQ_EXAMPLES = """\
examples:
  %(prog)s ls --group                                  how many failed in which way, since when
  %(prog)s show 3f2a91c0                               all that is known of one
  %(prog)s replay --type email.send --reason 'timed out' --dry-run
  %(prog)s replay --all                                back to where they came from
  %(prog)s discard --older 14d --yes
  %(prog)s replay --help                               each of them has a --help of its own

exit codes: 0 all that was meant is done, 1 some are left as they were (each is named), 3 nothing could be begun
"""
_MOVE_CODES = "exit codes: 0 all are done, 1 some are left as they were (each is named), 3 nothing could be begun\n"
DLQ_ACTION_EXAMPLES = {
    "ls": """\
examples:
  %(prog)s --group                       how many failed in which way, since when
  %(prog)s --type 'invoice.*' --newer 2h
  %(prog)s --text ann@example.com --all --json

exit codes: 0 looked, 1 interrupted, 3 the queue cannot be looked at
""",
    "show": """\
examples:
  %(prog)s 3f2a91c0            by the beginning of its id, as `ls` lists it
  %(prog)s invoice-7 --reveal  by its event id, with secrets and mail addresses

exit codes: 0 shown, 1 there is no such letter, 3 the queue cannot be looked at
""",
    "replay": f"""\
examples:
  %(prog)s --type email.send --reason 'timed out' --dry-run
  %(prog)s --all --rate 50     back to where they came from, 50 a second
  %(prog)s 3f2a91c0 --edit     correct the payload in $EDITOR first
  %(prog)s --all --to emails   letters of other programs too, which name no queue

A move is safe against Ctrl-C and kill -9: each letter is sent, and deleted once that is confirmed. Only the batch that
was in the air at a kill -9, 10 letters at most, can be in both queues: the next replay sends those again.

{_MOVE_CODES}""",
    "discard": f"""\
examples:
  %(prog)s 3f2a91c0
  %(prog)s --older 14d --dry-run
  %(prog)s --type 'test.*' --yes

{_MOVE_CODES}""",
    "export": f"""\
examples:
  %(prog)s --all --file letters.jsonl
  %(prog)s --type email.send | jq .body

Each letter stays in the queue.

{_MOVE_CODES}""",
    "import": f"""\
examples:
  %(prog)s --file letters.jsonl              back into the dead-letter queue
  %(prog)s --file letters.jsonl --to emails  to be handled again

{_MOVE_CODES}""",
}
