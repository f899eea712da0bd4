"""A release: its card, its files, and its way to the Hub."""
