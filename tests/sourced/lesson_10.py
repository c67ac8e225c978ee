"""Published mistakes of lesson 10 that no bank lists: none so far."""

MISTAKES = ()
