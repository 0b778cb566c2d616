"""The image of deploy/docker/Dockerfile, built and run without Docker: `make image`."""
