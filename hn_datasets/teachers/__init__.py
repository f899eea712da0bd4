"""Teachers: they turn texts into scores."""
