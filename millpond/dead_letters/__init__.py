"""Dead letters as people see and move them: what is known of one, which are meant, looking without loss, moving.

It stands on the calls to SQS, not on the engine. It may import errors, foreign, observe, message, hub, sqs, app.
From Python: `millpond.dead_letters.dead_letter_queue`.
"""
