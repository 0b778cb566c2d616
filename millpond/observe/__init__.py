"""What people see of a worker: the log, the metrics, and tables on a screen.

It may import `errors` and `foreign`.
"""
