"""Mining on a Ray cluster: the stages of one machine, on ranges of the corpus, with the same answer."""
