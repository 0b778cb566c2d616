"""How long each reply of an SMTP server is waited for, in seconds.

RFC 5321 4.5.3.2 names them, as "minimum per-command timeouts". To wait less makes second copies: the server may have
taken the mail that we gave up on.
"""

BANNER_SECONDS = 300.0  # .1
#: .2 MAIL, .3 RCPT; used for EHLO, STARTTLS and AUTH, which it does not name.
COMMAND_SECONDS = 300.0
DATA_SECONDS = 120.0  # .4
#: .5: while the content is sent, for each piece that the network takes.
BLOCK_SECONDS = 180.0
#: .6: after the final dot.
FINAL_SECONDS = 600.0
#: For the RSET that asks whether a kept connection is alive: a live server answers it at once.
RESET_SECONDS = 10.0
#: For the answer to QUIT, on which nothing depends.
QUIT_SECONDS = 2.0
