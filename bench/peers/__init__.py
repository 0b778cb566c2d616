"""The consumers that are compared, each set up as its own documentation says for throughput; one file each."""
