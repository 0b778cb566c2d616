"""Figures that anyone can repeat: `make bench`, or one of them: `python -m bench drain`."""
