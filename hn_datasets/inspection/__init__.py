"""Looking at mined data afterwards: audit, comparison and reproduction."""
