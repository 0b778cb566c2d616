"""Bad input of every kind, sent through the real paths: bodies, answers, SMTP replies, users' objects, requests."""
