"""moverq: an online mailbox move engine."""

__version__ = "0.1.0"
