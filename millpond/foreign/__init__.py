"""Foreign: texts, errors and numbers that others have written, made fit to be shown or used.

Whatever comes from outside (an endpoint's answer, a message, a handler's exception) passes here before it goes into a
log line, an error, a dead letter or onto a terminal: cut and escaped (`text`, `trace`), without any secret that this
process knows (`secrets`) and without mail addresses (`scrub`). Nothing here raises but the engine's own Interrupt,
should it come while a user's object is asked for its text. It may import `errors`.
"""
