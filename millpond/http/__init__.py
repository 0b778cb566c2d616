"""The worker's own HTTP server: one port, and a function for each path. It knows nothing of what they answer.

It may import `errors`, `foreign` and `observe`.
"""
