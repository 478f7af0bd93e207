"""From the interactions that a reader hands on to a prepared dataset: filtered, split, assembled, described."""
