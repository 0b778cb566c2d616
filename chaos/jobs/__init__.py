"""The handlers of the chaos run."""
